import json
from pathlib import Path

import pytest

from streamer.config import Config, configs_dir, load_config, parse_config
from streamer.errors import ConfigError

PATTERN = json.loads((configs_dir() / "pattern.json").read_text())


def changed(**keys: object) -> dict[str, object]:
    return {**PATTERN, **keys}


@pytest.mark.parametrize("path", sorted(configs_dir().glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_named_after_its_file(path: Path):
    assert load_config(path).name == path.stem


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (changed(strem={}), r"strem: unknown key; did you mean 'stream'\?"),
        (
            changed(stream={**PATTERN["stream"], "widht": 3}),
            r"stream.widht: unknown key; did you mean 'width'\?",
        ),
        (
            changed(server={"prot": 1}),
            r"server.prot: unknown key; did you mean 'port'\?",
        ),
        (changed(server={"allowed_origins": ["a.example"]}), "such as 'https://a.example'"),
        (changed(stream={"width": 256}), "stream.height: missing"),
        (changed(stream={**PATTERN["stream"], "window": 4}), "window 4 is smaller than sink 3"),
        (changed(family="wan"), "needs the section 'model'"),
        (changed(family="cubist"), "family: .*'pattern' or 'wan'"),
        ([], "the file"),
    ],
)
def test_a_faulty_configuration_is_named_with_key_and_way_out(tree: object, says: str):
    with pytest.raises(ConfigError, match=f"^my.json: .*{says}"):
        parse_config(tree, "my.json")


def test_a_sampler_without_warp_is_refused():
    tree = json.loads((configs_dir() / "storybook.json").read_text())
    del tree["model"]["sampler"]["warp"]
    with pytest.raises(ConfigError, match=r"model\.sampler\.warp: missing"):
        parse_config(tree, "my.json")


def test_denoising_steps_must_fall():
    tree = json.loads((configs_dir() / "storybook.json").read_text())
    tree["model"]["sampler"]["denoising_step_list"] = [500, 750]
    with pytest.raises(ConfigError, match="must fall"):
        parse_config(tree, "my.json")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'storybook'"):
        load_config("storybok")


def test_unreadable_files_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"gone\.json: cannot be read"):
        load_config(tmp_path / "gone.json")
    (tmp_path / "broken.json").write_text('{"name":\n oops')
    with pytest.raises(ConfigError, match="line 2: not JSON"):
        load_config(tmp_path / "broken.json")


def test_the_schema_forbids_unknown_keys_everywhere():
    schema = Config.model_json_schema()
    assert schema["additionalProperties"] is False
    assert all(
        part["additionalProperties"] is False
        for part in schema["$defs"].values()
        if part["type"] == "object"
    )


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_picture_that_no_video_can_hold_is_refused_at_once(side: str):
    stream = {"width": 64, "height": 64, side: 65}
    with pytest.raises(ConfigError, match=f"stream.{side}: .*multiple of 2"):
        parse_config({"name": "x", "family": "pattern", "stream": stream}, "x.json")
