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


@pytest.mark.parametrize(
    ("fewer", "says"),
    [([850, 1000], "reduced_step_list .* must fall"), ([1000, 850, 600, 300], "must have fewer")],
)
def test_a_reduced_list_falls_too_and_is_shorter(fewer: list[int], says: str):
    tree = json.loads((configs_dir() / "storybook.json").read_text())
    tree["model"]["sampler"] |= {
        "denoising_step_list": [1000, 850, 600, 300],
        "reduced_step_list": fewer,
    }
    with pytest.raises(ConfigError, match=says):
        parse_config(tree, "my.json")


def test_a_small_decoder_is_looked_for_in_the_models_folder_and_may_be_missing(tmp_path: Path):
    for name in ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "self_forcing_dmd.pt"):
        (tmp_path / name).touch()
    (tmp_path / "umt5-xxl").mkdir()

    def small_decoder() -> str:
        model = load_config("wan2.1-t2v-1.3b-self-forcing", tmp_path).model
        assert model is not None
        assert model.small_decoder is not None
        return model.small_decoder.weights

    assert small_decoder() == "models/Autoencoders/taew2_1.safetensors"
    (tmp_path / "taew2_1.safetensors").touch()
    assert small_decoder() == str(tmp_path / "taew2_1.safetensors")


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


def test_weights_beside_the_file_are_found_wherever_its_folder_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tree = json.loads((configs_dir() / "storybook.json").read_text())
    model = tree["model"]
    model["transformer"]["weights"] = ["one.safetensors", "assets/storybook/other.safetensors"]
    model["decoder"]["weights"] = "."
    model["text"]["weights"] = "elsewhere/text.safetensors"
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "one.safetensors").touch()
    (folder / "config.json").write_text(json.dumps(tree))
    moved = folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    found = load_config("moved/config.json").model
    assert found is not None
    assert found.transformer.weights == [
        str(moved / "one.safetensors"),
        "assets/storybook/other.safetensors",
    ]
    assert found.decoder.weights == str(moved)
    assert found.text.weights == "elsewhere/text.safetensors"  # as before: the working directory's
