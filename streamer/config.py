"""Typed, strict configuration: one JSON file describes one runnable model and how it is served.

An unknown key is an error that names the nearest known one.  `streamer config schema` prints the
JSON Schema of `Config`.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import struct
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from streamer.errors import ConfigError
from streamer.lightx2v import is_lightx2v, translate
from streamer.places import configs_dir as configs_dir
from streamer.places import found_beside
from streamer.places import models_dir as models_dir
from streamer.places import web_dir as web_dir
from streamer.places import weights_path as weights_path
from streamer.stream import Transition, TransitionKind

log = logging.getLogger(__name__)

DEFAULT_CONFIG = "storybook"
HEADER_KEY = "streamer.config"

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
    recache_together: how a recache rewrites the window: in one pass in which its frames see each
    other in both directions, as LongLive trains it, or block by block, as they were made.
    clip_frames: pictures that `generate` makes when it is not told how long; None: eight seconds.
    """

    width: Annotated[int, Field(ge=64, le=4096, multiple_of=2)]
    height: Annotated[int, Field(ge=64, le=4096, multiple_of=2)]
    fps: Annotated[int, Field(ge=1, le=60)] = 16
    num_frame_per_block: Positive = 3
    window: Annotated[int, Field(ge=0)] = 9
    sink: Annotated[int, Field(ge=0)] = 3
    absolute_positions: bool = False
    recache_together: bool = False
    clip_frames: Positive | None = None
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
    guidance_scale: 1 asks the model once a step; another number asks it twice, with the prompt and
    with negative_prompt, and goes that far from the second answer to the first.  Distilled models
    have the guidance in their weights and want 1.
    solver: `renoise` is how CausVid, Self-Forcing and LongLive are trained and run; `unipc` is what
    LightX2V ran CausVid's list with at first: without fresh noise, timesteps taken literally.
    reduced_step_list: fewer steps, read as the others are, for when blocks are made too slowly.
    """

    denoising_step_list: Annotated[list[float], Field(min_length=1, max_length=100)]
    reduced_step_list: Annotated[list[float], Field(min_length=1, max_length=99)] | None = None
    warp: bool
    shift: Annotated[float, Field(gt=0)] = 5.0
    context_noise: Annotated[float, Field(ge=0, le=1000)] = 0.0
    solver: Literal["renoise", "unipc"] = "renoise"
    guidance_scale: Annotated[float, Field(gt=0, le=30)] = 1.0
    negative_prompt: str = ""

    @model_validator(mode="after")
    def _steps_fall(self) -> SamplerSection:
        lists = {"denoising_step_list": self.denoising_step_list}
        if self.reduced_step_list is not None:
            lists["reduced_step_list"] = self.reduced_step_list
        for name, steps in lists.items():
            if any(a <= b for a, b in pairwise(steps)) or not (steps[-1] > 0 and steps[0] <= 1000):
                raise ValueError(f"{name} {steps} must fall, within 1000 down to above 0")
        return self

    @model_validator(mode="after")
    def _reduced_list_is_shorter(self) -> SamplerSection:
        steps, fewer = self.denoising_step_list, self.reduced_step_list
        if fewer is not None and len(fewer) >= len(steps):
            raise ValueError(
                f"reduced_step_list has {len(fewer)} steps and denoising_step_list {len(steps)}; "
                "it must have fewer, or be left out"
            )
        return self


class LoraSection(Section):
    """Low-rank changes that are added to the transformer's weights while they load."""

    weights: str
    scale: float = 1.0


CANVAS_COVERS = 8
"""How many ways there are for a figure of a canvas to cover a part of the place behind it."""


class TransformerSection(Section):
    """Sizes of the causal Wan transformer, and its weights: files, or a folder to look in.

    dtype: what the weights are held and computed in.
    assume_causal: take weights that say that they are a bidirectional model or a training stage.
    """

    width: Positive
    num_heads: Positive
    num_layers: Positive
    ffn_width: Positive
    latent_channels: Positive = 16
    text_width: Positive = 4096
    text_length: Positive = 512
    freq_width: Positive = 256
    learned_grid: tuple[Positive, Positive] | None = None
    pooled_text: bool = False
    text_canvas: Annotated[int, Field(ge=0)] = 0
    canvas_frames: Positive = 1
    predicts_clean: bool = False
    carries: Annotated[int, Field(ge=0)] = 0
    weights: Annotated[list[str], Field(min_length=1)]
    loras: list[LoraSection] = []
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    assume_causal: bool = False

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
    """The latent autoencoder: ours (`tiny`), Wan's, its pruned form (`lightvae`), or TAEHV.

    dtype: what a published one computes in; None: the transformer's.
    """

    kind: Literal["tiny", "wan", "lightvae", "taehv"] = "tiny"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None


class TextSection(FileSection):
    """The text encoder: ours, or UMT5 with the folder that holds its tokenizer.

    dtype: what UMT5 is held and computed in.
    parked: UMT5 stays in the host's memory and visits the device layer by layer for each new text.
    """

    kind: Literal["storybook", "umt5"] = "storybook"
    tokenizer: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    parked: bool = False


class ModelSection(Section):
    """Everything the `wan` family needs to make video.

    kernels: `auto` takes, on a GPU, what measures fastest among those that are right; `torch` and
    `triton` take all of one kind.  A CPU has PyTorch only.  `compile` is PyTorch's own compiler,
    for comparison in benchmarks: it needs minutes at the start.
    graphs: whether a GPU replays recorded passes, which spares the host the work of launching them.
    eight_bit: linear maps in eight-bit numbers: `fp8` needs compute capability 8.9, `int8` runs
    everywhere.  The model then starts only if its pictures stay near those of its own precision, at
    least min_psnr_db in the mean over a block.
    eight_bit_cache: keys and values in eight-bit numbers, which halves their memory; same numbers,
    same comparison.
    fused: whether the clean pass of a block and the first step of the next one run as a single
    pass; None: on a GPU, which two blocks fill better than one.
    random_weights: read no weights, except those of our own decoder, and draw them: for benchmarks.
    small_decoder: a faster one for when blocks are made too slowly; without its file the model runs
    all the same, and that measure is not taken.
    """

    transformer: TransformerSection
    sampler: SamplerSection
    decoder: DecoderSection
    small_decoder: DecoderSection | None = None
    text: TextSection
    device: str = "auto"
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    kernels: Literal["auto", "torch", "triton", "compile"] = "auto"
    graphs: bool = True
    eight_bit: Literal["fp8", "int8"] | None = None
    eight_bit_cache: Literal["fp8", "int8"] | None = None
    fused: bool | None = None
    min_psnr_db: Annotated[float, Field(ge=0, le=100)] = 30.0
    random_weights: bool = False


class ServerSection(Section):
    """Addresses, limits and patience of the server.  Safe for a laptop as it stands.

    ice_servers: `stun:host:port`, `turn:user:password@host:port`.  bitrate_kbps: of the full
    rendition; None suits size and rate.  h264_encoder: `auto` takes the first that works here.
    message_bytes: the largest message or request; upload_bytes: one that brings a picture or clip.
    rewind_s: how much is kept of what was sent, for "save the last seconds"; 0 keeps nothing.
    publish: WHIP addresses every stream is sent to; `{stream}` stands for its id.
    tls_cert, tls_key: PEM files; both or none.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    allowed_origins: list[str] = []
    max_streams: Positive = 2
    max_viewers: Positive = 16
    message_bytes: Positive = 65536
    upload_bytes: Positive = 50_000_000
    ice_servers: list[str] = []
    bitrate_kbps: Annotated[int, Field(ge=100, le=50_000)] | None = None
    h264_encoder: Literal["auto", "libx264", "h264_nvenc"] = "auto"
    rewind_s: Annotated[float, Field(ge=0, le=600)] = 30.0
    recording_dir: str = "~/.local/share/streamer/recordings"
    publish: list[str] = []
    publish_token: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
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

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServerSection:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; give both, or none for HTTP")
        return self


class DownloadSection(Section):
    """Files of one Hugging Face repository, at one revision; `include` are glob patterns.

    Written below the models folder as `folder`/<name in the repository>.
    bytes: their size together, to know beforehand whether they fit on the disk.
    revision: a commit; empty: the one that `main` means at the first download, which is noted and
    kept from then on.
    """

    repo: str
    folder: str
    include: Annotated[list[str], Field(min_length=1)]
    bytes: Annotated[int, Field(ge=0)]
    revision: str = ""


class SourceSection(Section):
    """Where the weights come from and under which terms."""

    page: str
    licence: str
    notes: str = ""
    downloads: list[DownloadSection] = []


class Config(Section):
    """One runnable model and how it is served."""

    name: str
    title: str = ""
    family: Literal["pattern", "wan"]
    stream: StreamSection
    model: ModelSection | None = None
    source: SourceSection | None = None
    examples: list[str] = []
    server: ServerSection = ServerSection()

    @model_validator(mode="after")
    def _family_has_its_parts(self) -> Config:
        if self.family == "wan" and self.model is None:
            raise ValueError("family 'wan' needs the section 'model'")
        if self.family == "pattern" and self.model is not None:
            raise ValueError("family 'pattern' has no weights: leave out the section 'model'")
        return self


def load_config(source: str | Path | None = None, model_path: Path | None = None) -> Config:
    """Read a configuration by file path or by the name of a shipped one (None: the default).

    A file of LightX2V is translated, a safetensors file read for the configuration in its header.
    Weights named by relative paths lie beside the file, or else in the working directory.
    model_path: a folder in which the weights are looked for, instead of where the configuration
    says.
    Raises ConfigError that names the file, the key, what is wrong and the nearest known name.
    """
    path = _find(str(source or DEFAULT_CONFIG))
    tree = header_config(path) if path.suffix == ".safetensors" else _read_json(path)
    if is_lightx2v(tree):
        translated = translate(tree, str(path), model_path)
        for warning in translated.warnings:
            log.warning("%s", warning)
        tree = translated.tree
    config = parse_config(found_beside(tree, path.parent), str(path))
    if model_path is None:
        return config
    from streamer.model_path import at_model_path

    return at_model_path(config, model_path)


def header_config(path: Path) -> Any:
    """The configuration in the header of a file of `streamer models convert`, as a JSON tree.

    The file itself becomes the transformer's weights.  Raises ConfigError.
    """
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            notes = json.loads(file.read(length)).get("__metadata__", {})
        tree = json.loads(notes[HEADER_KEY])
        tree["model"]["transformer"] |= {"weights": [str(path)], "loras": []}
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: has no configuration in its header; name a configuration, and this file in "
            "its model.transformer.weights"
        ) from error
    return tree


def _read_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from error


def parse_config(tree: object, name: str) -> Config:
    """Validate a decoded JSON tree.  Raises ConfigError, one line for each fault."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"{name}: {_sentence(dict(fault))}" for fault in error.errors())
        ) from error


def _find(source: str) -> Path:
    if source.endswith((".json", ".safetensors")) or os.sep in source:
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
