"""Runs a recipe: each stage in its folder, in order, those that are done left out.

Under torchrun all ranks walk through the stages together; the stages that know one process only run
on the main one while the others wait.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from streamer.config import Config, weights_path
from streamer.distill import recipe as recipes
from streamer.distill.console import model_section
from streamer.distill.dmd_stage import DMDStageConfig
from streamer.distill.edition import Edition, load_edition
from streamer.distill.ode_stage import OdeStageConfig
from streamer.distill.ranks import is_main, wait_for_ranks
from streamer.distill.recipe import Recipe
from streamer.distill.settings import read_settings
from streamer.distill.stages import (
    TimeUpError,
    Work,
    make_trajectories,
    run_stage,
    train_canvas,
    train_dmd,
    train_ode,
    train_teacher,
    until,
)
from streamer.distill.teacher_stage import TeacherStageConfig
from streamer.distill.trainer import TrainerConfig
from streamer.distill.trajectories import TrajectoryConfig
from streamer.distill.workshop import PUBLISHED, Workshop
from streamer.errors import ConfigError
from streamer.places import MODELS

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
SERVED = "model"
"""Folder of an export stage's files, below the stage's own."""


class Kitchen:
    """One run of a recipe.

    out: the run's folder.  device: of this rank.  Raises ConfigError for a configuration that
    cannot be trained.
    """

    def __init__(self, recipe: Recipe, source: Path, out: Path, device: torch.device) -> None:
        self.recipe, self.out, self.device = recipe, out, device
        self._config = recipe.model(source)
        check_settings(recipe)
        self._source = out / CONFIG_FILE
        if is_main():
            out.mkdir(parents=True, exist_ok=True)
            self._source.write_text(self._config.model_dump_json(indent=2) + "\n")
        wait_for_ranks()

    def cook(self, only: str | None = None) -> None:
        """All stages, or one of them, that are not done yet.

        Raises ConfigError for a stage that the recipe does not have.
        """
        stages = [stage for stage in self.recipe.stages if only in (None, stage.folder)]
        if not stages:
            known = ", ".join(stage.folder for stage in self.recipe.stages)
            raise ConfigError(f"{self.recipe.name} has no stage {only!r}; it has {known}")
        for stage in stages:
            folder = self.out / stage.folder
            if recipes.is_done(folder):
                log.info("done already stage=%s", stage.folder)
                continue
            log.info("begin stage=%s", stage.folder)
            started = time.monotonic()
            self._cook(stage, folder)
            wait_for_ranks()
            seconds = time.monotonic() - started
            if is_main():
                recipes.note_done(folder, seconds)
            wait_for_ranks()
            log.info("done stage=%s seconds=%.0f", stage.folder, seconds)

    def _cook(self, stage: recipes.AnyStage, folder: Path) -> None:
        shards: tuple[Path, ...]
        match stage:
            case recipes.TeacherSection():
                shards = self._folders(stage.shards)
                start, canvas = self._weights(stage.start), self._weights(stage.canvas)
                work = self._work(stage, folder)
                train_teacher(self._workshop(), work, shards, start, stage.transformer, canvas)
            case recipes.TrajectoriesSection():
                shards = self._folders(stage.shards)
                teacher = self._needed(stage.teacher)
                make_trajectories(self._workshop(), self._work(stage, folder), shards, teacher)
            case recipes.OdeSection():
                (paths,) = self._folders([stage.paths])
                start = self._weights(stage.start)
                train_ode(self._workshop(), self._work(stage, folder), paths, start)
            case recipes.DMDSection():
                train_dmd(
                    self._workshop(),
                    self._work(stage, folder),
                    self._folders(stage.shards),
                    self._needed(stage.start),
                    self._needed(stage.teacher),
                    self._folders(stage.texts),
                )
            case _:
                if is_main():
                    self._cook_alone(stage, folder)

    def _cook_alone(self, stage: recipes.AnyStage, folder: Path) -> None:
        match stage:
            case recipes.TextSection():
                self._train_text(stage, folder)
            case recipes.VAESection():
                self._train_vae(stage, folder)
            case recipes.WorldSection():
                self._render(stage, folder)
            case recipes.VideosSection():
                self._read_videos(stage, folder)
            case recipes.CanvasSection():
                (clips,) = self._folders([stage.shards])
                train_canvas(self._workshop(), self._work(stage, folder), clips)
            case recipes.StudentSection():
                self._train_student(stage, folder)
            case recipes.ClassifierSection():
                self._train_classifier(stage, folder)
            case recipes.ExportSection():
                self._export(stage, folder)
            case recipes.EvaluateSection():
                self._evaluate(stage, folder)
            case _:
                raise TypeError(f"no way to run a {type(stage).__name__}")

    # ---- the stages that run in one process ------------------------------------------------------

    def _train_text(self, stage: recipes.TextSection, folder: Path) -> None:
        from streamer.distill.text_stage import TextOptions, TextTraining, train_text

        training = read_settings(
            TextTraining, {"seed": self.recipe.seed, **stage.settings}, f"{stage.folder}.settings"
        )
        words = stage.word_vectors
        path = None if words is None else weights_path(words)
        device = str(self.device)
        train_text(
            TextOptions(folder, self._edition, path, training, is_resumed=True, device=device)
        )

    def _train_vae(self, stage: recipes.VAESection, folder: Path) -> None:
        from streamer.distill.vae_stage import VAEStage, VAEStageConfig, WorldClips
        from streamer.models.tiny_vae import STORYBOOK

        settings = read_settings(VAEStageConfig, stage.settings, f"{stage.folder}.settings")
        seed = self.recipe.seed
        clips = WorldClips(
            self._edition, seed=seed, num_clips=settings.pool_clips, device=str(self.device)
        )
        channels = model_section(self._config).transformer.latent_channels
        sizes = replace(STORYBOOK, latent_channels=channels)
        vae = VAEStage(clips, settings, sizes, self.device, seed)
        run_stage(vae, self._work(stage, folder), {})

    def _render(self, stage: recipes.WorldSection, folder: Path) -> None:
        from streamer.distill.data import build_shards
        from streamer.distill.world import Renderer
        from streamer.models.tiny_vae import load_vae

        shop, stream = self._workshop(), self._config.stream
        folder.mkdir(parents=True, exist_ok=True)
        worlds = [other.folder for other in self.recipe.stages if other.stage == "world"]
        decoder = model_section(shop.config).decoder
        if decoder.kind != "tiny":
            raise ConfigError(f"{stage.folder}: the world is rendered for our own autoencoder only")
        try:
            build_shards(
                folder,
                Renderer(self._edition, self.device, stream.height, stream.width, stream.fps),
                load_vae(weights_path(decoder.weights), self.device),
                shop.load_encoder(),
                num_shards=stage.shards,
                num_latents=stage.latents,
                block=stream.num_frame_per_block,
                seed=self.recipe.seed + worlds.index(stage.folder),
                per_shard=stage.per_shard,
                # A shard beside the held-out one there must be.
                on_progress=until(stage.minutes, _say("shards", folder), folder, least=2),
            )
        except TimeUpError:
            log.info("time is up stage=%s", stage.folder)

    def _read_videos(self, stage: recipes.VideosSection, folder: Path) -> None:
        from streamer.distill.videos import build_video_shards, read_prompts

        shop = self._workshop()
        build_video_shards(
            folder,
            self._config.stream,
            shop.load_vae(),
            shop.load_encoder(),
            videos=None if stage.videos is None else Path(stage.videos),
            prompts=[] if stage.prompts is None else read_prompts(Path(stage.prompts)),
            num_latents=stage.latents,
            device=self.device,
            on_progress=_say("files", folder),
        )

    def _train_student(self, stage: recipes.StudentSection, folder: Path) -> None:
        from streamer.distill.student_stage import (
            StudentOptions,
            StudentStageConfig,
            train_student,
        )

        model = model_section(self._workshop().config)
        settings = read_settings(StudentStageConfig, stage.settings, f"{stage.folder}.settings")
        (shards,) = self._folders([stage.shards])
        beginnings = self._folders([stage.beginnings]) if stage.beginnings else (None,)
        is_finished = train_student(
            StudentOptions(
                config=str(self._source),
                shards=shards,
                vae=weights_path(model.decoder.weights),
                text=weights_path(model.text.weights),
                out=folder,
                minutes=stage.minutes,
                stage=settings,
                beginnings=beginnings[0],
                start=self._weights(stage.start),
                canvas=self._weights(stage.canvas),
                is_resumed=True,
                threads=torch.get_num_threads(),
                device=str(self.device),
                seed=self.recipe.seed,
                is_bf16=self.recipe.bf16,
            )
        )
        if not is_finished:
            raise KeyboardInterrupt

    def _train_classifier(self, stage: recipes.ClassifierSection, folder: Path) -> None:
        from streamer.distill.classifier import ClassifierStage, ClassifierStageConfig

        where = f"{stage.folder}.settings"
        settings = read_settings(ClassifierStageConfig, stage.settings, where)
        judge = ClassifierStage(self._edition, settings, self.device, self.recipe.seed)
        run_stage(judge, self._work(stage, folder), {"ema_decay": 0.98})

    def _export(self, stage: recipes.ExportSection, folder: Path) -> None:
        from streamer.distill.blueprint import transformer_files
        from streamer.distill.export import as_storage, copy_files, export_transformer

        served = folder / SERVED
        source = self._needed(stage.student)
        shop = self._workshop()
        files = export_transformer(
            transformer_files(source),
            served,
            as_storage(stage.storage),
            stage.most_mb,
        )
        tree = self._config.model_dump(mode="json")
        # What the run has made lies beside the configuration, so that the folder can be moved.
        tree["model"]["transformer"]["weights"] = [path.name for path in files]
        if shop.vae_path is not None:
            names = ("vae.json", "vae.safetensors")
            copy_files([shop.vae_path / name for name in names], served)
            tree["model"]["decoder"]["weights"] = "."
        else:
            tree["model"]["decoder"]["weights"] = _settled(tree["model"]["decoder"]["weights"])
        if shop.text_path is not None:
            beside = [shop.text_path.parent / name for name in ("text.json", "vocabulary.json")]
            copied = copy_files([shop.text_path, *beside], served)
            tree["model"]["text"]["weights"] = copied[0].name
        else:
            tree["model"]["text"]["weights"] = _settled(tree["model"]["text"]["weights"])
        if stage.classifier is not None:
            judge = self.out / stage.classifier / "export" / "classifier.safetensors"
            copy_files([judge], served)
        (served / CONFIG_FILE).write_text(json.dumps(tree, indent=2) + "\n")

    def _evaluate(self, stage: recipes.EvaluateSection, folder: Path) -> None:
        from streamer.distill.classifier import SHIPPED, load_classifier
        from streamer.distill.evaluate import evaluate
        from streamer.distill.judging import load_model
        from streamer.distill.report import EvaluationOptions

        options = read_settings(EvaluationOptions, stage.settings, f"{stage.folder}.settings")
        config_path = self.out / stage.model / SERVED / CONFIG_FILE
        path = SHIPPED
        if stage.classifier is not None:
            path = self.out / stage.classifier / "export" / "classifier.safetensors"
        config, model = load_model(
            str(config_path), str(self.device), torch.get_num_threads(), lambda share, what: None
        )
        teacher = self._weights(stage.teacher)
        report = evaluate(model, config, load_classifier(path), options, teacher=teacher)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(json.dumps(report.tree(), indent=2) + "\n")
        log.info("%s", report.summary())

    # ---- where things lie ------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The model's configuration."""
        return self._config

    @property
    def _edition(self) -> Edition:
        return load_edition(self.recipe.edition)

    def _workshop(self) -> Workshop:
        """The parts as they are by now: what earlier stages made comes before the configuration."""
        vae = self._made("vae", "export")
        text = self._made("text", "text.safetensors")
        return Workshop(
            str(self._source), self.device, self.recipe.seed, vae, text, self.recipe.bf16
        )

    def _made(self, kind: str, inside: str) -> Path | None:
        for stage in self.recipe.stages:
            if stage.stage == kind:
                return self.out / stage.folder / inside
        return None

    def _work(self, stage: recipes.StageSection, folder: Path) -> Work:
        return Work(
            out=folder,
            minutes=stage.minutes,
            steps=stage.steps,
            settings=stage.settings,
            trainer=stage.trainer,
            is_bf16=self.recipe.bf16,
            is_checkpointed=stage.checkpointing,
            seed=self.recipe.seed,
        )

    def _folders(self, names: list[str]) -> tuple[Path, ...]:
        """The folders of earlier stages, or folders as they are."""
        known = {stage.folder for stage in self.recipe.stages}
        return tuple(self.out / name if name in known else Path(name) for name in names)

    def _weights(self, name: str | None) -> Path | None:
        return None if name is None else self._needed(name)

    def _needed(self, name: str) -> Path:
        """Where the weights of a stage lie, or of a folder, or of the configuration."""
        if name == str(PUBLISHED):
            return PUBLISHED
        (folder,) = self._folders([name])
        return folder / "export" if (folder / "export").is_dir() else folder


def check_settings(recipe: Recipe) -> None:
    """Look at the settings of all stages before the first begins.  Raises ConfigError."""
    from streamer.distill.canvas_stage import CanvasStageConfig
    from streamer.distill.classifier import ClassifierStageConfig
    from streamer.distill.report import EvaluationOptions
    from streamer.distill.student_stage import StudentStageConfig
    from streamer.distill.text_stage import TextTraining
    from streamer.distill.vae_stage import VAEStageConfig

    kinds: dict[str, type] = {
        "text": TextTraining,
        "vae": VAEStageConfig,
        "canvas": CanvasStageConfig,
        "teacher": TeacherStageConfig,
        "trajectories": TrajectoryConfig,
        "ode": OdeStageConfig,
        "student": StudentStageConfig,
        "dmd": DMDStageConfig,
        "classifier": ClassifierStageConfig,
        "evaluate": EvaluationOptions,
    }
    trained = ("vae", "canvas", "teacher", "ode", "student", "dmd", "classifier")
    for stage in recipe.stages:
        where = f"{recipe.name}: {stage.folder}"
        if stage.stage in kinds:
            read_settings(kinds[stage.stage], stage.settings, f"{where}.settings")
        elif stage.settings:
            raise ConfigError(f"{where}.settings: a stage {stage.stage} has none; leave them out")
        if stage.stage in trained:
            end = {"out": "unused", "max_steps": stage.steps, "max_seconds": stage.minutes}
            read_settings(TrainerConfig, {**stage.trainer, **end}, f"{where}.trainer")


def _settled(name: str) -> str:
    """The name of weights as it is understood from anywhere."""
    is_anywhere = name.startswith(("assets/", MODELS))
    return name if is_anywhere else str(weights_path(name).resolve())


def _say(what: str, folder: Path) -> Callable[[int], None]:
    """A listener to progress that logs it now and then."""
    last = time.monotonic()

    def listen(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > 15:
            log.info("stage=%s %s=%d", folder.name, what, done)
            last = time.monotonic()

    return listen
