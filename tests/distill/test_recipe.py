"""Recipes: read strictly, run in order, gone on with; the toy one makes a model that serves."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from streamer.cli import main
from streamer.config import load_config
from streamer.distill import stages
from streamer.distill.kitchen import Kitchen, check_settings
from streamer.distill.pipeline import interrupted_after
from streamer.distill.recipe import find_recipe, is_done, read_recipe
from streamer.distill.rehearsal import rehearsed
from streamer.distill.trainer import Trainer
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
    minutes = sum(stage.minutes or 0 for stage in recipe.stages)
    assert 20 < minutes <= 25  # the rest is for text, export, evaluation and the ways between
    assert sum(stage.minutes or 0 for stage in recipe.scaled(0.1).stages) == pytest.approx(
        minutes / 10
    )
    assert [stage.minutes is None for stage in recipe.scaled(0.1).stages] == [
        stage.minutes is None for stage in recipe.stages
    ]


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


class Stopwatch:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_stage_that_makes_files_has_only_the_time_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    watch = Stopwatch()
    monkeypatch.setattr(stages, "time", watch)
    told: list[int] = []
    first = stages.until(1.0, told.append, tmp_path)
    watch.now = 40
    first(1)
    # The run is cut here, and gone on with later: 20 seconds are left.
    again = stages.until(1.0, told.append, tmp_path)
    watch.now = 59
    again(2)
    watch.now = 61
    with pytest.raises(stages.TimeUpError):
        again(3)
    assert told == [1, 2, 3]


def test_what_there_must_be_is_made_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    watch = Stopwatch()
    monkeypatch.setattr(stages, "time", watch)
    listen = stages.until(0.001, lambda done: None, tmp_path, least=2)
    watch.now = 100
    listen(1)
    with pytest.raises(stages.TimeUpError):
        listen(2)


def test_a_run_is_interrupted_when_its_time_is_over():
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.1 / 60):
        time.sleep(5)
    with interrupted_after(0.1 / 60):
        pass
    time.sleep(0.2)  # nothing comes later


@pytest.mark.parametrize("name", ["storybook", "toy"])
def test_a_rehearsal_has_all_stages_and_sound_settings(name: str):
    recipe = read_recipe(find_recipe(name))
    tiny = rehearsed(recipe)
    check_settings(tiny)
    assert [stage.folder for stage in tiny.stages] == [stage.folder for stage in recipe.stages]
    sizes, own = (r.model(Path(name)).model.transformer for r in (tiny, recipe))
    assert sizes.num_layers < own.num_layers
    assert (sizes.latent_channels, sizes.text_width) == (own.latent_channels, own.text_width)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # about a minute of a core of its own; tests may share one
def test_the_storybook_recipe_runs_through_all_its_stages_and_goes_on_after_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.set_num_threads(1)
    out = tmp_path / "run"
    source = find_recipe("storybook")
    recipe = rehearsed(read_recipe(source))
    cut = ["once"]
    real = Trainer.train_step

    def step_and_cut(self: Trainer) -> dict[str, float]:
        row = real(self)
        if self.config.out.name == "dmd" and cut:
            cut.pop()
            self._stop()
        return row

    monkeypatch.setattr(Trainer, "train_step", step_and_cut)
    with pytest.raises(KeyboardInterrupt):
        Kitchen(recipe, source, out, CPU).cook()
    assert is_done(out / "ode")
    assert not is_done(out / "dmd")
    Kitchen(recipe, source, out, CPU).cook()
    assert all(is_done(out / stage.folder) for stage in recipe.stages)
    rows = [json.loads(line) for line in (out / "dmd" / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    report = json.loads((out / "evaluate" / "evaluation.json").read_text())
    assert report["teacher"] == str(out / "teacher" / "export")
    assert report["obedience"]["scene"]["chance"] == 1 / 16

    # What comes home: files that are small enough, in a folder that may lie anywhere.
    home = tmp_path / "home"
    (out / "export" / "model").rename(home)
    assert all(path.stat().st_size <= 16 * 2**20 for path in home.iterdir())
    assert {"vocabulary.json", "classifier.safetensors"} <= {path.name for path in home.iterdir()}
    assert str(tmp_path) not in (home / "config.json").read_text()
    config = load_config(home / "config.json")
    model = DiffusionModel(config, lambda share, what: None)
    stream = model.open(StreamSpec(config.name, 1, 256, 160, 16))
    block = stream.next_block((Prompt("p", "a whale in the ocean at sunset"),))
    assert block.frames.shape == (12, 160, 256, 3)


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
