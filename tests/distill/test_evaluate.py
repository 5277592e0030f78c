"""Judging a model: what is counted, on streams whose content is known, and on a tiny real model."""

from __future__ import annotations

import itertools
import json
import mmap
import random
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from streamer.config import Config
from streamer.distill import judging
from streamer.distill.blueprint import blueprint_of, new_transformer, write_transformer
from streamer.distill.captions import sample_pair
from streamer.distill.classifier import AttributeClassifier, save_classifier
from streamer.distill.commands import distill
from streamer.distill.drift import judge_drift, tabulate
from streamer.distill.edition import SceneSpec, load_edition
from streamer.distill.evaluate import (
    Exam,
    evaluate,
    judge_obedience,
    judge_synonyms,
    watch_prompts,
)
from streamer.distill.export import copy_files, export_transformer
from streamer.distill.looks import measure_look
from streamer.distill.players import Player
from streamer.distill.report import (
    Change,
    EvaluationOptions,
    Look,
    Moment,
    Obedience,
    Reconstruction,
    StreamDrift,
)
from streamer.distill.switches import draw_change, judge_subject_switches, judge_switches
from streamer.engine.diffusion import DiffusionModel
from streamer.errors import ConfigError, OutputError, WeightsError
from streamer.models.checkpoint import read_tensors, save_weights
from streamer.stream import FrameBlock
from tests.engine.tiny_model import make_tiny_config

SMALL = load_edition("small")
ATTRIBUTES = SMALL.attributes

TINY = EvaluationOptions(
    num_prompts=2, num_blocks=3, drift_s=10, num_streams=1, num_switches=1, num_reconstructions=1,
    num_known=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return make_tiny_config(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(config: Config) -> DiffusionModel:
    return DiffusionModel(config, lambda done, what: None)


class Actor:
    """Plays streams whose blocks show one grey level, ten for each number of a scene.

    delay: blocks until a changed prompt shows.  ending: what is shown from second 6 on.
    """

    fps, block_frames, clip_frames = 16, 12, 29

    def __init__(
        self,
        scene_of: Mapping[str, int],
        delay: int = 0,
        ending: Callable[[np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        self.scene_of, self.delay, self.ending = scene_of, delay, ending

    def play(self, seed: int, prompts: Mapping[int, str]) -> Generator[FrameBlock, None, None]:
        chance = np.random.default_rng(seed)
        wanted = shown = due = 0
        for index in itertools.count():
            if index in prompts:
                wanted, due = self.scene_of[prompts[index]], index + (self.delay if index else 0)
            if index >= due:
                shown = wanted
            frames = np.full((12, 16, 16, 3), 10 * shown, dtype=np.uint8)
            if self.ending is not None and index >= 8:
                frames = self.ending(chance)
            yield FrameBlock(index, 12 * index, frames, np.zeros(0, np.float32), "p")


class LevelJudge:
    """Reads the scene, or the subject, off the grey level; says class 0 of everything else.

    Of a subject it is so sure that no other is among its five likeliest: five in a row are one.
    """

    edition = SMALL

    def __init__(self, reads: str = "scene") -> None:
        self.reads = reads

    def classify_pictures(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        count = len(ATTRIBUTES[self.reads])
        level = (pictures[:, 0, 0, 0].long() // 10).clamp(max=count - 1)
        return {self.reads: -(torch.arange(count) - level[:, None]).abs().float()}

    def classify(self, clips: torch.Tensor) -> dict[str, torch.Tensor]:
        num = len(clips)
        logits = {name: torch.zeros(num, len(known)) for name, known in ATTRIBUTES.items()}
        return logits | self.classify_pictures(clips[:, -1])


def exam_of(num: int) -> Exam:
    rng = random.Random(4)
    pairs = [sample_pair(SMALL, rng, held_out=True) for _ in range(num)]
    right = dict.fromkeys(ATTRIBUTES, (0,))
    return Exam(
        specs=tuple(spec for spec, _ in pairs),
        captions=tuple(said for _, said in pairs),
        rendered=(right,) * num,
        reconstructed=(right,),
        renders=(Look(100, 100, 100, contrast=40, saturation=50, sharpness=5, motion=2),),
        reconstruction=Reconstruction(30.0, 29.0, 1),
    )


def obedience_of(actor: Actor, exam: Exam) -> dict[str, Obedience]:
    options = replace(TINY, num_prompts=len(exam.captions))
    return judge_obedience(SMALL, exam, watch_prompts(actor, LevelJudge(), exam.captions, options))


# ---- what is counted ----------------------------------------------------------------------------


def test_obedience_counts_only_what_the_caption_mentions() -> None:
    exam = exam_of(24)
    scene_of = {said.text: spec.scene for spec, said in zip(exam.specs, exam.captions, strict=True)}
    found = obedience_of(Actor(scene_of), exam)
    mentioned = [
        spec
        for spec, said in zip(exam.specs, exam.captions, strict=True)
        if "time" in said.mentions
    ]
    assert found["scene"].model == 1.0
    assert found["scene"].chance == pytest.approx(1 / 6)
    assert found["time"].num_scored == len(mentioned) < 24
    share = sum(spec.time == 0 for spec in mentioned) / len(mentioned)
    assert found["time"].model == found["time"].classifier_on_renders == pytest.approx(share)


def test_a_model_that_ignores_its_prompt_is_not_called_obedient() -> None:
    exam = exam_of(24)
    deaf = Actor({said.text: 3 for said in exam.captions})
    found = obedience_of(deaf, exam)
    assert found["scene"].model is not None
    assert found["scene"].model < 0.5


@pytest.mark.parametrize("delay", [0, 2])
def test_a_switch_takes_as_many_blocks_as_the_new_scene_stays_unseen(delay: int) -> None:
    options = replace(TINY, num_switches=5)
    found = judge_switches(Actor(scenes_of_changes(options), delay), LevelJudge(), options)
    assert found.blocks == (delay + 1,) * 5
    assert (found.mean, found.num_never, found.num_already) == (delay + 1, 0, 0)


def test_a_scene_that_never_comes_is_counted_as_never() -> None:
    options = replace(TINY, num_switches=3)
    found = judge_switches(Actor(scenes_of_changes(options), 99), LevelJudge(), options)
    assert (found.blocks, found.mean, found.num_never) == ((), None, 3)


def scenes_of_changes(options: EvaluationOptions) -> dict[str, int]:
    rng = random.Random(options.seed + 2)
    pairs = [pair for _ in range(options.num_switches) for pair in draw_change(SMALL, rng)]
    return {said.text: spec.scene for spec, said in pairs}


def test_a_change_names_two_different_scenes() -> None:
    rng = random.Random(0)
    for _ in range(20):
        (old, old_said), (new, new_said) = draw_change(SMALL, rng)
        assert "scene" in old_said.mentions & new_said.mentions
        assert old.scene != new.scene


def noise(chance: np.random.Generator) -> np.ndarray:
    return chance.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)


def flat(chance: np.random.Generator) -> np.ndarray:
    return np.full((12, 16, 16, 3), 128, dtype=np.uint8)


@pytest.mark.parametrize(("ending", "ends"), [(noise, (0, 0, 1)), (flat, (1, 1, 0))])
def test_drift_tells_how_a_stream_ended(
    ending: Callable[[np.random.Generator], np.ndarray], ends: tuple[int, int, int]
) -> None:
    exam = exam_of(4)
    rng = random.Random(TINY.seed + 1)
    spec, said = sample_pair(SMALL, rng)
    actor = Actor({said.text: spec.scene}, ending=ending)
    drift = judge_drift(actor, LevelJudge(), exam.renders, replace(TINY, drift_s=12))
    assert (drift.num_frozen, drift.num_grey, drift.num_exploded) == ends
    assert [moment.at_s for moment in drift.mean] == pytest.approx([5, 6.4, 7.8, 9.2, 10.6, 12])
    assert drift.streams[0].caption == said.text


def test_a_flat_picture_has_no_contrast_and_a_checkerboard_is_sharp() -> None:
    grey = np.full((16, 8, 8, 3), 90, dtype=np.uint8)
    look = measure_look(grey, 16)
    assert (look.red, look.contrast, look.saturation, look.motion) == (90, 0, 0, 0)
    assert look.sharpness == pytest.approx(0, abs=1e-3)
    board = grey.copy()
    board[:, (np.indices((8, 8)).sum(0) % 2) == 0] = 110
    # Each pixel differs by 20 from its four neighbours.
    assert measure_look(board, 16).sharpness == pytest.approx(80, rel=1e-4)
    assert measure_look(board, 16).contrast == pytest.approx(10, rel=1e-4)


def test_motion_is_the_change_over_a_quarter_second() -> None:
    brightening = np.arange(16, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 4, 4, 3))
    assert measure_look(brightening.astype(np.uint8), 16).motion == pytest.approx(4, rel=1e-4)


def test_the_class_of_a_spec_is_named_by_its_attribute() -> None:
    spec = SceneSpec(1, 2, 0, 7, 5)
    assert [spec.of(name) for name in ATTRIBUTES] == [1, 2, 0, 7, 5]


def test_the_right_class_among_five_counts_apart() -> None:
    exam = exam_of(12)
    guesses = [{name: tuple(range(5)) for name in ATTRIBUTES} for _ in exam.captions]
    found = judge_obedience(SMALL, exam, guesses, guesses)["subject"]
    scored = [
        spec.subject
        for spec, said in zip(exam.specs, exam.captions, strict=True)
        if "subject" in said.mentions
    ]
    assert found.model == found.teacher == sum(number == 0 for number in scored) / len(scored)
    assert found.top5_model == found.top5_teacher == sum(n < 5 for n in scored) / len(scored)
    assert (found.chance, found.top5_chance) == (pytest.approx(1 / 21), pytest.approx(5 / 21))


def test_a_new_subject_is_looked_for_as_a_new_scene_is() -> None:
    options = replace(TINY, num_switches=4)
    rng = random.Random(options.seed + 4)
    pairs = [draw_change(SMALL, rng, "subject") for _ in range(4)]
    said = {c.text: spec.subject for pair in pairs for spec, c in pair}
    assert all(old[0].subject != new[0].subject for old, new in pairs)
    assert SMALL.no_subject_number not in said.values()
    soon = judge_subject_switches(Actor(said, 1), LevelJudge("subject"), options)
    assert (soon.in_time, soon.blocks) == (1.0, (2,) * (4 - soon.num_already))
    late = judge_subject_switches(Actor(said, 2), LevelJudge("subject"), options)
    assert (late.in_time, late.num_never) == (0.0, 0)


def test_unseen_words_are_counted_beside_known_ones_of_the_same_specs() -> None:
    exam = exam_of(16)
    scene_of = {said.text: spec.scene for spec, said in zip(exam.specs, exam.captions, strict=True)}
    options = replace(TINY, num_prompts=16, num_known=16)
    made = watch_prompts(Actor(scene_of), LevelJudge(), exam.captions, options)
    # The same actor knows no other caption: told in known words it shows scene 0.
    deaf = Actor(defaultdict(int))
    found = judge_synonyms(deaf, LevelJudge(), exam, made, options)
    assert found is not None
    assert (found.known or 0.0) < (found.unseen or 0.0)
    assert found.points == pytest.approx(100 * (found.known - found.unseen))
    assert judge_synonyms(deaf, LevelJudge(), exam, made, replace(options, num_known=0)) is None


def test_the_table_of_drift_has_medians_and_the_worst_stream() -> None:
    def moments(score: float, contrast: float) -> tuple[Moment, ...]:
        look = Look(100, 100, 100, contrast=40, saturation=50, sharpness=5, motion=2)
        last = replace(look, contrast=contrast)
        return Moment(5.0, 1.0, look, 1.0, 0.0), Moment(300.0, score, last, 3.0, 0.2)

    streams = [
        StreamDrift("", number, moments(score, contrast), False, False, False)
        for number, (score, contrast) in enumerate([(1.0, 41), (0.5, 38), (0.75, 20)])
    ]
    table = tabulate(streams)
    assert table["score"] == Change(1.0, 0.75, -0.25, -0.5)
    assert table["contrast"] == Change(40, 38, -2, -20)
    assert table["foreign"] == Change(1.0, 3.0, 2.0, 2.0)
    assert table["foreign_share"].worst == pytest.approx(0.2)


# ---- a tiny model, whole ------------------------------------------------------------------------


def test_a_report_has_every_part_and_repeats_itself(config: Config, model: DiffusionModel) -> None:
    torch.manual_seed(0)
    judge = AttributeClassifier(SMALL).eval()
    done: list[float] = []
    report = evaluate(model, config, judge, TINY, done.append)
    again = evaluate(model, config, judge, TINY)
    assert again.obedience == report.obedience
    assert again.drift == report.drift
    assert again.switch_blocks == report.switch_blocks
    assert again.reconstruction == report.reconstruction
    assert report.drift is not None
    assert len(report.drift.mean) == len(report.drift.streams[0].moments) == 6
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert "reconstruction" in report.summary()
    first = report.drift.streams[0].moments[0]
    assert first.foreign is not None
    assert first.foreign_share is not None
    assert set(report.drift.table) >= {"score", "contrast", "sharpness", "foreign"}
    assert report.subject_switch_blocks is not None
    assert report.synonyms is not None


@pytest.fixture(scope="module")
def teacher(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the model's own sizes."""
    folder = tmp_path_factory.mktemp("teacher")
    write_transformer(new_transformer(blueprint_of(config).transformer, 1), folder)
    return folder


def test_a_teacher_stands_beside_the_model(
    config: Config, model: DiffusionModel, teacher: Path
) -> None:
    judge = AttributeClassifier(SMALL).eval()
    options = replace(TINY, num_streams=1, num_switches=0, num_known=0, teacher_steps=2)
    report = evaluate(model, config, judge, options, teacher=teacher)
    assert report.teacher == str(teacher)
    scored = [found for found in report.obedience.values() if found.num_scored]
    assert all(found.teacher is not None and found.top5_teacher is not None for found in scored)
    assert report.drift is not None
    assert report.drift.teacher is not None
    assert "teacher" in report.summary()


def test_too_few_blocks_for_the_judge_are_refused(config: Config, model: DiffusionModel) -> None:
    with pytest.raises(ConfigError, match="2 blocks make 24 frames; the judge looks at 29"):
        evaluate(model, config, AttributeClassifier(SMALL), replace(TINY, num_blocks=2))


def test_a_player_makes_the_same_stream_again_and_counts(
    config: Config, model: DiffusionModel
) -> None:
    player = Player(model, config)
    with closing(player.play(3, {0: "green hills", 1: "snow"})) as stream:
        first = [next(stream).frames for _ in range(2)]
    with closing(player.play(3, {0: "green hills", 1: "snow"})) as stream:
        second = [next(stream).frames for _ in range(2)]
    assert np.array_equal(first, second)
    assert (player.num_blocks, player.num_frames) == (4, 48)


# ---- the commands -------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(distill, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A configuration file and a judge."""
    folder = tmp_path_factory.mktemp("files")
    source = folder / "tiny.json"
    source.write_text(config.model_dump_json())
    torch.manual_seed(0)
    save_classifier(AttributeClassifier(SMALL), folder / "judge.safetensors")
    return source, folder / "judge.safetensors"


def test_evaluate_prints_and_writes_the_same_json(files: tuple[Path, Path], tmp_path: Path) -> None:
    source, judge = files
    result = run(
        "evaluate", "--config", source, "--classifier", judge, "--prompts", 1, "--streams", 0,
        "--switches", 0, "--reconstructions", 1, "--threads", 1, "--json",
        "--out", tmp_path / "report.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    tree = json.loads(result.stdout)
    assert tree == json.loads((tmp_path / "report.json").read_text())
    assert set(tree["obedience"]) == set(ATTRIBUTES)
    assert set(tree["obedience"]["scene"]) >= {"model", "classifier_on_renders", "chance"}
    assert tree["reconstruction_db"] == tree["reconstruction"]["mean_db"]
    assert (tree["drift"], tree["switch_blocks"]) == (None, None)
    assert tree["options"]["num_prompts"] == 1


@pytest.mark.parametrize(
    ("arguments", "columns", "rows"),
    [
        (("prompts", "--prompt", "green hills", "--prompt", "the sea"), 6, 2),
        (("stream", "--prompt", "snow", "--second", 1, "--second", 2), 2, 1),
        (("switch", "--change", "green hills", "night"), 8, 1),
    ],
)
def test_a_sheet_has_a_row_for_each_stream(
    arguments: tuple[object, ...], columns: int, rows: int, files: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "sheet.png"
    result = run("sheet", *arguments, "--config", files[0], "--out", out)
    assert result.exit_code == 0, result.output
    with Image.open(out) as image:
        width, height = image.size
    picture = 256 if arguments[0] == "stream" else 192
    assert width == 190 + columns * (picture + 6) + 6
    assert rows * picture < height < rows * (picture + 80) + 30


def test_many_prompts_are_drawn_with_the_teacher_at_their_right(
    files: tuple[Path, Path], teacher: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sheet.png"
    result = run(
        "sheet", "prompts", "--count", 3, "--teacher", teacher, "--config", files[0], "--out", out
    )
    assert result.exit_code == 0, result.output
    with Image.open(out) as image:
        width, height = image.size
    assert width == 190 + (3 + 3) * (192 + 6) + 6
    assert 3 * 192 < height < 3 * (192 + 80) + 30


def test_a_sheet_of_the_world_needs_no_model(tmp_path: Path) -> None:
    out = tmp_path / "world.png"
    result = run("sheet", "world", "--edition", "small", "--rows", 1, "--out", out)
    assert result.exit_code == 0, result.output
    with Image.open(out) as image:
        assert image.size[0] == 190 + 6 * (192 + 6) + 6
        assert len(image.convert("L").getcolors()) > 100


def test_a_judge_of_another_edition_than_the_model_is_refused(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "edition_of", lambda model: load_edition("full"))
    result = run("evaluate", "--config", files[0], "--classifier", files[1], "--threads", 1)
    assert result.exit_code == 2
    assert "shows the full edition, the classifier knows the small one" in result.stderr


def test_a_damaged_judge_ends_with_one_sentence(files: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "judge.safetensors"
    broken.write_bytes(b"no weights")
    result = run("evaluate", "--config", files[0], "--classifier", broken)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"streamer: {broken}: ")


def test_a_model_without_weights_cannot_be_judged(files: tuple[Path, Path]) -> None:
    result = run("evaluate", "--config", "pattern", "--classifier", files[1])
    assert result.exit_code == 2
    assert "pattern: has no model" in result.stderr


def test_a_new_run_does_not_write_over_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-00000007").mkdir()
    (tmp_path / "checkpoint-00000007" / "state.json").write_text("{}")
    result = run("classifier", "--out", tmp_path, "--threads", 1)
    assert result.exit_code == 2
    assert "holds a run already (checkpoint-00000007); add --resume" in result.stderr


def test_every_command_says_what_it_does() -> None:
    assert set(distill.commands) >= {
        "atlas", "vocabulary", "text", "vae", "world", "student", "classifier", "evaluate", "sheet",
        "export",
    }  # fmt: skip
    for name in distill.commands:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert "--out" in result.output or "--to" in result.output


# ---- what ships ---------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_large_weights_ship_as_several_files_that_read_as_one(
    storage: Literal["float32", "float16", "int8"], tmp_path: Path
) -> None:
    chance = torch.Generator().manual_seed(0)
    tensors = {f"layer.{i}": torch.randn(512, 1024, generator=chance) for i in range(5)}
    save_weights(tensors, tmp_path / "source.safetensors", "float32")
    paths = export_transformer([tmp_path / "source.safetensors"], tmp_path / "out", storage, 2)
    assert len(paths) == {"float32": 5, "float16": 3, "int8": 2}[storage]
    assert all(path.stat().st_size < 2.1 * 2**20 for path in paths)
    assert read_tensors(paths).keys() == tensors.keys()


def test_an_export_replaces_the_files_of_an_earlier_one(tmp_path: Path) -> None:
    save_weights({"a": torch.ones(700, 1000)}, tmp_path / "source.safetensors")
    stale = tmp_path / "out" / "transformer-1-of-2.safetensors"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    paths = export_transformer([tmp_path / "source.safetensors"], tmp_path / "out", "float16", 16)
    assert [path.name for path in paths] == ["transformer.safetensors"]
    assert not stale.exists()


def test_an_export_leaves_the_files_of_a_running_server_alone(tmp_path: Path) -> None:
    for name, value in (("old", 1.0), ("new", 2.0)):
        (tmp_path / name).mkdir()
        save_weights({"a": torch.full((700, 1000), value)}, tmp_path / name / "a.safetensors")
    served = tmp_path / "out"
    copied = copy_files([tmp_path / "old" / "a.safetensors"], served)
    made = export_transformer([tmp_path / "old" / "a.safetensors"], served, "float16", 16)
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in (*copied, *made)]
        maps = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for file in files]
        before = [mapped[:] for mapped in maps]
        copy_files([tmp_path / "new" / "a.safetensors"], served)
        export_transformer([tmp_path / "new" / "a.safetensors"], served, "float16", 16)
        assert [mapped[:] for mapped in maps] == before
    for path in (*copied, *made):
        assert float(read_tensors([path])["a"].max()) == 2.0
    assert made[0].stat().st_mode & 0o777 == 0o644
    assert len(list(served.iterdir())) == 2


def test_an_export_that_fails_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    save_weights({"a": torch.ones(70, 100)}, tmp_path / "old.safetensors")
    (served,) = export_transformer([tmp_path / "old.safetensors"], tmp_path / "out", "float16", 16)
    save_weights({"a": torch.full((70, 100), 1e6)}, tmp_path / "large.safetensors", "float32")
    with pytest.raises(WeightsError, match=r"a reaches .* too far for float16"):
        export_transformer([tmp_path / "large.safetensors"], tmp_path / "out", "float16", 16)
    with pytest.raises(OutputError, match="cannot be written"):
        export_transformer([tmp_path / "old.safetensors"], served, "float16", 16)
    assert float(read_tensors([served])["a"].max()) == 1.0
    assert [path.name for path in served.parent.iterdir()] == [served.name]


def test_an_export_looks_for_all_its_files_first(tmp_path: Path) -> None:
    student = tmp_path / "student" / "export"
    student.mkdir(parents=True)
    save_weights({"a": torch.ones(70, 100)}, student / "transformer.safetensors")
    arguments = ("--student", student.parent, "--vae", tmp_path / "none")
    result = run("export", "--to", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_an_export_of_nothing_and_of_a_run_without_an_end_are_refused(tmp_path: Path) -> None:
    assert "nothing to export" in run("export", "--to", tmp_path).stderr
    result = run("export", "--to", tmp_path, "--vae", tmp_path / "run")
    assert result.exit_code == 2
    assert "has its stage been trained?" in result.stderr
    with pytest.raises(WeightsError):
        export_transformer([tmp_path / "none.safetensors"], tmp_path, "float16", 16)
