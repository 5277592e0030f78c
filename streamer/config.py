"""Typed, strict configuration: one JSON file describes one runnable model and how it is served.

An unknown key is an error that names the nearest known one.  `streamer config schema` prints the
JSON Schema of `Config`.
"""

from __future__ import annotations

import difflib
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from streamer.errors import ConfigError
from streamer.stream import Transition, TransitionKind

PACKAGE = Path(__file__).resolve().parent
DEFAULT_CONFIG = "storybook"

Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TransitionSection(Section):
    """The transition used when a prompt does not choose one."""

    kind: TransitionKind = TransitionKind.RECACHE
    blocks: Annotated[int, Field(ge=1, le=64)] = 1

    def transition(self) -> Transition:
        """The same as a value of the stream contract."""
        return Transition(self.kind, self.blocks)


class StreamSection(Section):
    """The picture and the block.  width, height in pixels; window and sink in latent frames.

    Width and height are even, since video has one colour sample for each two by two pixels.
    window counts sinks, history and the block being made; 0 keeps everything (finite streams only).
    """

    width: Annotated[int, Field(ge=64, le=4096, multiple_of=2)]
    height: Annotated[int, Field(ge=64, le=4096, multiple_of=2)]
    fps: Annotated[int, Field(ge=1, le=60)] = 16
    num_frame_per_block: Positive = 3
    window: Annotated[int, Field(ge=0)] = 9
    sink: Annotated[int, Field(ge=0)] = 3
    absolute_positions: bool = False
    transition: TransitionSection = TransitionSection()

    @model_validator(mode="after")
    def _window_holds_a_block(self) -> StreamSection:
        if self.window and self.window < self.sink + self.num_frame_per_block:
            raise ValueError(
                f"window {self.window} is smaller than sink {self.sink} + num_frame_per_block "
                f"{self.num_frame_per_block}; it must hold the sinks and the block being made"
            )
        return self


class SamplerSection(Section):
    """The denoising steps.  warp has no default: a list is useless without knowing its meaning.

    warp true: entries index the shifted table (Self-Forcing); false: entries are timesteps.
    """

    denoising_step_list: Annotated[list[float], Field(min_length=1, max_length=100)]
    warp: bool
    shift: Annotated[float, Field(gt=0)] = 5.0
    context_noise: Annotated[float, Field(ge=0, le=1000)] = 0.0

    @model_validator(mode="after")
    def _steps_fall(self) -> SamplerSection:
        steps = self.denoising_step_list
        if any(a <= b for a, b in pairwise(steps)) or not (steps[-1] > 0 and steps[0] <= 1000):
            raise ValueError(f"denoising_step_list {steps} must fall, within 1000 down to above 0")
        return self


class TransformerSection(Section):
    """Sizes of the causal Wan transformer."""

    width: Positive
    num_heads: Positive
    num_layers: Positive
    ffn_width: Positive
    latent_channels: Positive = 16
    text_width: Positive = 4096
    text_length: Positive = 512
    freq_width: Positive = 256
    learned_grid: tuple[Positive, Positive] | None = None
    weights: Annotated[list[str], Field(min_length=1)]

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerSection:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self


class FileSection(Section):
    """A part whose sizes are written in its own weights file."""

    kind: str
    weights: str


class DecoderSection(FileSection):
    """The latent autoencoder."""

    kind: Literal["tiny"] = "tiny"


class TextSection(FileSection):
    """The text encoder."""

    kind: Literal["storybook"] = "storybook"


class ModelSection(Section):
    """Everything the `wan` family needs to make video."""

    transformer: TransformerSection
    sampler: SamplerSection
    decoder: DecoderSection
    text: TextSection
    device: str = "auto"
    threads: Annotated[int, Field(ge=0, le=256)] = 0


class ServerSection(Section):
    """Addresses, limits and patience of the server.  Safe for a laptop as it stands."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    allowed_origins: list[str] = []
    max_streams: Positive = 2
    max_viewers: Positive = 16
    message_bytes: Positive = 65536
    ice_servers: list[str] = []
    bitrate_kbps: Annotated[int, Field(ge=100, le=50_000)] = 1200
    park_after_s: Annotated[float, Field(gt=0)] = 20.0
    forget_after_s: Annotated[float, Field(gt=0)] = 1800.0
    viewer_silence_s: Annotated[float, Field(gt=0)] = 15.0
    script_dir: str | None = None

    @model_validator(mode="after")
    def _origins_have_a_scheme(self) -> ServerSection:
        for origin in self.allowed_origins:
            if not origin.startswith(("http://", "https://")):
                raise ValueError(
                    f"allowed_origins holds {origin!r}; write it as a browser sends it, such as "
                    f"'https://{origin}'"
                )
        return self


class Config(Section):
    """One runnable model and how it is served."""

    name: str
    title: str = ""
    family: Literal["pattern", "wan"]
    stream: StreamSection
    model: ModelSection | None = None
    examples: list[str] = []
    server: ServerSection = ServerSection()

    @model_validator(mode="after")
    def _family_has_its_parts(self) -> Config:
        if self.family == "wan" and self.model is None:
            raise ValueError("family 'wan' needs the section 'model'")
        if self.family == "pattern" and self.model is not None:
            raise ValueError("family 'pattern' has no weights: leave out the section 'model'")
        return self


def configs_dir() -> Path:
    """Where the shipped configurations are: beside the package, or inside an installed one."""
    installed = PACKAGE / "_configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def web_dir() -> Path:
    """Where the page is: beside the package, or inside an installed one."""
    installed = PACKAGE / "_web"
    return installed if installed.is_dir() else PACKAGE.parent / "web"


def weights_path(name: str) -> Path:
    """The file a configuration means: `assets/...` ships with the package, others are paths."""
    if name.startswith("assets/"):
        return PACKAGE / name
    return Path(os.path.expanduser(name))


def load_config(source: str | Path | None = None) -> Config:
    """Read a configuration by file path or by the name of a shipped one (None: the default).

    Raises ConfigError that names the file, the key, what is wrong and the nearest known name.
    """
    path = _find(str(source or DEFAULT_CONFIG))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from error
    return parse_config(tree, str(path))


def parse_config(tree: object, name: str) -> Config:
    """Validate a decoded JSON tree.  Raises ConfigError, one line for each fault."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"{name}: {_sentence(dict(fault))}" for fault in error.errors())
        ) from error


def _find(source: str) -> Path:
    if source.endswith(".json") or os.sep in source:
        return Path(source).expanduser()
    known = sorted(p.stem for p in configs_dir().glob("*.json"))
    if source not in known:
        raise ConfigError(
            f"no configuration named {source!r}{_suggestion(source, known)}; "
            f"known: {', '.join(known) or 'none'}; or give the path of a .json file"
        )
    return configs_dir() / f"{source}.json"


def _sentence(fault: dict[str, Any]) -> str:
    place = [str(part) for part in fault["loc"]]
    where = ".".join(place) or "the file"
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key{_suggestion(place[-1], _keys_at(place[:-1]))}"
    if fault["type"] == "missing":
        return f"{where}: missing"
    found = "" if fault["type"] == "value_error" else f" (found {fault['input']!r})"
    return f"{where}: {fault['msg'].removeprefix('Value error, ')}{found}"


def _suggestion(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _keys_at(place: list[str]) -> list[str]:
    """The known keys of the section at `place`."""
    section: type[Section] = Config
    for part in place:
        field = section.model_fields.get(part)
        if field is None:
            return []
        found = [
            kind
            for kind in (field.annotation, *get_args(field.annotation))
            if isinstance(kind, type) and issubclass(kind, Section)
        ]
        if not found:
            return []
        section = found[0]
    return list(section.model_fields)
