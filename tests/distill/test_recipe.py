"""Recipes: read strictly, run in order, gone on with; the toy one makes a model that serves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from streamer.cli import main
from streamer.config import load_config
from streamer.distill.kitchen import Kitchen, check_settings
from streamer.distill.recipe import find_recipe, is_done, read_recipe
from streamer.engine.diffusion import DiffusionModel
from streamer.errors import ConfigError
from streamer.stream import Prompt, StreamSpec

SHIPPED = ("storybook", "toy", "wan-1.3b", "wan-14b")
CPU = torch.device("cpu")


def write(folder: Path, **changes: Any) -> Path:
    """The toy recipe with some keys changed, as a file."""
    tree = json.loads(find_recipe("toy").read_text()) | changes
    path = folder / "recipe.json"
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_sound(name: str):
    recipe = read_recipe(find_recipe(name))
    check_settings(recipe)
    config = recipe.model(Path(name))
    assert config.model is not None
    assert recipe.stages[-1].stage in ("export", "evaluate")


def test_the_storybook_recipe_keeps_its_half_hour():
    recipe = read_recipe(find_recipe("storybook"))
    assert sum(stage.minutes or 0 for stage in recipe.stages) <= 26


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"stage": "ode", "paths": "nowhere", "steps": 1}], "needs 'nowhere'"),
        ([{"stage": "cook"}], "stages"),
        ([{"stage": "vae", "steps": 1, "minuts": 2}], "minuts"),
        ([{"stage": "vae", "steps": 1}, {"stage": "vae", "steps": 1}], "two stages"),
        ([], "stages"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_when_it_is_read(
    tmp_path: Path, stages: list[dict[str, object]], message: str
):
    with pytest.raises(ConfigError, match=message):
        read_recipe(write(tmp_path, stages=stages))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"stage": "vae", "steps": 1, "settings": {"crop": 2}}, "did you mean 'crops'"),
        ({"stage": "vae", "steps": 1, "settings": {"crops": "many"}}, "crops"),
        ({"stage": "vae"}, "max_steps or max_seconds"),
        ({"stage": "vae", "steps": 1, "trainer": {"ema": 0.9}}, "unknown setting"),
        ({"stage": "world", "settings": {"clips": 2}}, "has none"),
    ],
)
def test_settings_are_looked_at_before_the_first_stage(
    tmp_path: Path, stage: dict[str, object], message: str
):
    path = write(tmp_path, stages=[stage])
    with pytest.raises(ConfigError, match=message):
        Kitchen(read_recipe(path), path, tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()


def test_an_unknown_stage_or_recipe_is_named(tmp_path: Path):
    path = write(tmp_path)
    kitchen = Kitchen(read_recipe(path), path, tmp_path / "run", CPU)
    with pytest.raises(ConfigError, match=r"no stage 'dm'; it has text, vae"):
        kitchen.cook("dm")
    with pytest.raises(ConfigError, match="no recipe named 'tpy'"):
        find_recipe("tpy")


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute of a core of its own; tests may share one
def test_the_toy_recipe_makes_a_model_that_serves_and_goes_on_where_it_stands(tmp_path: Path):
    """All stages, each a few steps; then a block of the exported model, and a second run."""
    torch.set_num_threads(1)
    out = tmp_path / "run"
    source = find_recipe("toy")
    recipe = read_recipe(source)
    Kitchen(recipe, source, out, CPU).cook()
    assert all(is_done(out / stage.folder) for stage in recipe.stages)
    for name in ("vae", "teacher", "ode", "dmd"):
        rows = [json.loads(line) for line in (out / name / "losses.jsonl").read_text().splitlines()]
        assert any("loss" in row for row in rows)
        assert (out / name / "sheet.png").stat().st_size > 0
    served = out / "export" / "model"
    assert all(path.stat().st_size <= 16 * 2**20 for path in served.iterdir())

    config = load_config(served / "config.json")
    model = DiffusionModel(config, lambda share, what: None)
    stream = model.open(StreamSpec(config.name, 1, 128, 96, 16))
    block = stream.next_block((Prompt("p", "the ocean at sunset"),))
    assert block.frames.shape == (12, 96, 128, 3)
    assert block.frames.std() > 1

    # A stage that was cut short goes on from its checkpoint, the others are left alone.
    (out / "dmd" / "done.json").unlink()
    before = (out / "ode" / "losses.jsonl").stat().st_mtime_ns
    result = CliRunner().invoke(main, ["distill", "run", "toy", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert is_done(out / "dmd")
    assert (out / "ode" / "losses.jsonl").stat().st_mtime_ns == before
