"""Recipe: all stages of a distillation in one JSON file, run in order by `streamer distill run`.

Each stage has a folder of its own below the run's, and a note there when it is done; a run that was
stopped goes on where it stands, inside a stage from its last checkpoint.  Stages name earlier ones,
whose exports or shards they take up.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from streamer.config import Config, Section, configs_dir, load_config, parse_config
from streamer.errors import ConfigError

log = logging.getLogger(__name__)

Minutes = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class StageSection(Section):
    """What all stages have.

    name: of the stage's folder, and for later stages to refer to; empty: the stage's own name.
    minutes, steps: the end of a stage that can be cut short; a training needs one of them.
    checkpointing: a training keeps the input of each layer only, for less memory.
    settings: fields of the stage's dataclass, such as DMDStageConfig.  trainer: fields of
    TrainerConfig.
    """

    stage: str
    name: str = ""
    minutes: Minutes | None = None
    steps: Count | None = None
    checkpointing: bool = False
    settings: dict[str, Any] = Field(default_factory=dict)
    trainer: dict[str, Any] = Field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return self.name or self.stage

    @property
    def needs(self) -> tuple[str, ...]:
        """The stages that it takes something from."""
        return ()


class TextSection(StageSection):
    """The text encoder.  word_vectors: a word table or encoder made before; None: distil one."""

    stage: Literal["text"]
    word_vectors: str | None = None


class VAESection(StageSection):
    """The autoencoder."""

    stage: Literal["vae"]


class WorldSection(StageSection):
    """Shards of rendered clips: as many as are wanted, or as the minutes allow.

    latents: of a clip.  per_shard: clips of a shard; None: 288 latent frames of them.
    """

    stage: Literal["world"]
    shards: Count = 64
    latents: Count = 9
    per_shard: Count | None = None


class VideosSection(StageSection):
    """Shards of the clips of a folder of videos, and of a list of prompts.

    videos: a folder; prompts: a text file with one on each line.  latents: of a clip.
    """

    stage: Literal["videos"]
    videos: str | None = None
    prompts: str | None = None
    latents: Count = 21


class CanvasSection(StageSection):
    """The canvas of the configuration's transformer.  shards: clips of one block."""

    stage: Literal["canvas"]
    shards: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Clips."""
        return (self.shards,)


class TeacherSection(StageSection):
    """The bidirectional teacher.

    transformer: sizes other than the configuration's.  start: a stage, `config` or a folder.
    canvas: a stage or folder whose canvas new weights begin with.
    """

    stage: Literal["teacher"]
    shards: list[str]
    start: str | None = None
    canvas: str | None = None
    transformer: dict[str, int] = Field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """Clips and perhaps weights."""
        return (*self.shards, *(name for name in (self.start, self.canvas) if name))


class TrajectoriesSection(StageSection):
    """The teacher's paths."""

    stage: Literal["trajectories"]
    shards: list[str]
    teacher: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Texts and the teacher."""
        return (*self.shards, self.teacher)


class OdeSection(StageSection):
    """The causal student's start on the paths.  start: None: new weights."""

    stage: Literal["ode"]
    paths: str
    start: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Paths and perhaps weights."""
        return (self.paths, *([self.start] if self.start else []))


class StudentSection(StageSection):
    """The short way without a teacher: teacher forcing and self-resampling.

    beginnings: clips of one block.  canvas: a stage or folder whose canvas it begins with.
    """

    stage: Literal["student"]
    shards: str
    beginnings: str | None = None
    start: str | None = None
    canvas: str | None = None
    minutes: Minutes = 60.0

    @property
    def needs(self) -> tuple[str, ...]:
        """Clips and perhaps weights."""
        names = (self.shards, self.beginnings, self.start, self.canvas)
        return tuple(name for name in names if name)


class DMDSection(StageSection):
    """Distribution matching.  texts: shards whose texts are used, if not those of `shards`."""

    stage: Literal["dmd"]
    shards: list[str]
    texts: list[str] = Field(default_factory=list)
    start: str
    teacher: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Clips, texts and weights."""
        return (*self.shards, *self.texts, self.start, self.teacher)


class ClassifierSection(StageSection):
    """The judge."""

    stage: Literal["classifier"]
    steps: Count | None = 500


class EvaluateSection(StageSection):
    """Judging what an `export` stage wrote.  settings: fields of EvaluationOptions.

    teacher: a stage or folder whose figures stand beside the model's.
    """

    stage: Literal["evaluate"]
    model: str
    classifier: str | None = None
    teacher: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The model, perhaps the judge and the teacher."""
        return (self.model, *(name for name in (self.classifier, self.teacher) if name))


class ExportSection(StageSection):
    """The model as it is served: weights and a configuration, in one folder.

    most_mb: megabytes of the largest file.
    """

    stage: Literal["export"]
    student: str
    classifier: str | None = None
    storage: Literal["float32", "float16", "int8"] = "float16"
    most_mb: Count = 16

    @property
    def needs(self) -> tuple[str, ...]:
        """The weights."""
        return (self.student, *([self.classifier] if self.classifier else []))


AnyStage = Annotated[
    TextSection
    | VAESection
    | WorldSection
    | VideosSection
    | CanvasSection
    | TeacherSection
    | TrajectoriesSection
    | OdeSection
    | StudentSection
    | DMDSection
    | ClassifierSection
    | EvaluateSection
    | ExportSection,
    Field(discriminator="stage"),
]


class Recipe(Section):
    """Everything of one distillation.

    config: the model, by name or file, or the whole configuration itself.  edition: of the world.
    bf16: compute in bfloat16.
    """

    name: str
    config: str | dict[str, Any]
    edition: str = "full"
    seed: int = 0
    bf16: bool = False
    stages: Annotated[list[AnyStage], Field(min_length=1)]

    @model_validator(mode="after")
    def _stages_name_earlier_ones(self) -> Recipe:
        known: list[str] = []
        for stage in self.stages:
            for name in stage.needs:
                if name != "config" and name not in known and not Path(name).exists():
                    raise ValueError(
                        f"stage {stage.folder} needs {name!r}, which is no earlier stage and no "
                        f"folder; earlier stages: {', '.join(known) or 'none'}"
                    )
            if stage.folder in known:
                raise ValueError(f"two stages are called {stage.folder!r}; give one another name")
            known.append(stage.folder)
        return self

    def scaled(self, share: float) -> Recipe:
        """The same with all minutes multiplied: 0.5 for a quick try, 2 for a better model."""
        stages = [
            stage.model_copy(update={"minutes": stage.minutes and stage.minutes * share})
            for stage in self.stages
        ]
        return self.model_copy(update={"stages": stages})

    def model(self, source: Path) -> Config:
        """The model's configuration.  source: the recipe's file, for errors."""
        if isinstance(self.config, str):
            return load_config(self.config)
        return parse_config(self.config, f"{source}: config")


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe, or a file as it is.  Raises ConfigError for an unknown name."""
    if name.endswith(".json") or "/" in name:
        return Path(name).expanduser()
    folder = configs_dir() / "distill"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if name not in known:
        raise ConfigError(
            f"no recipe named {name!r}; known: {', '.join(known)}; or give the path of a .json file"
        )
    return folder / f"{name}.json"


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.  Raises ConfigError that names the file, the key and what is wrong."""
    try:
        return Recipe.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{path}: {where}: {first['msg']}") from error


def is_done(folder: Path) -> bool:
    """Whether a stage has come to its end."""
    return (folder / "done.json").is_file()


def note_done(folder: Path, seconds: float) -> None:
    """Note that a stage has come to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "done.json").write_text(json.dumps({"seconds": round(seconds, 1)}) + "\n")
