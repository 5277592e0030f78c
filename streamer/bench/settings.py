"""What a benchmark changes of a configuration, also written as `window=12,backend=torch`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from streamer.config import Config, ModelSection, parse_config
from streamer.errors import ConfigError

DECODERS = ("tiny", "wan", "lightvae", "taehv")
EIGHT_BITS = ("fp8", "int8")


@dataclass(frozen=True)
class Settings:
    """Changes of a configuration; None leaves a thing as it is.

    window, sink: latent frames.  steps: how many of the configuration's denoising steps are left,
    evenly chosen, the first among them.  size: `WxH` in pixels.  decoder: a kind, or `KIND=PATH`.
    backend: of the kernels.  eight_bit, eight_bit_cache: fp8 or int8.  fused: the clean pass of a
    block and the first step of the next one as one.
    """

    window: int | None = None
    sink: int | None = None
    steps: int | None = None
    size: str | None = None
    decoder: str | None = None
    backend: str | None = None
    eight_bit: str | None = None
    eight_bit_cache: str | None = None
    fused: bool | None = None
    graphs: bool | None = None
    random_weights: bool | None = None

    @classmethod
    def parse(cls, text: str) -> Settings:
        """Read `name=value,...`; an empty text changes nothing.  Raises ConfigError."""
        values: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, found, value = part.partition("=")
            name = name.strip().replace("-", "_")
            if not found or name not in {field.name for field in fields(cls)}:
                known = ", ".join(field.name for field in fields(cls))
                raise ConfigError(
                    f"the setting {part!r} cannot be read; write name=value with one of: {known}"
                )
            values[name] = _value(name, value.strip())
        return cls(**values)

    def over(self, other: Settings) -> Settings:
        """These, and those of `other` where these say nothing."""
        merged = vars(other) | {
            name: value for name, value in vars(self).items() if value is not None
        }
        return Settings(**merged)

    def label(self) -> str:
        """For people."""
        said = [f"{name}={value}" for name, value in vars(self).items() if value is not None]
        return ",".join(said) or "as configured"

    def apply(self, config: Config) -> Config:
        """The configuration with these changes.  Raises ConfigError for what cannot be."""
        tree: dict[str, Any] = config.model_dump(mode="json")
        if self.window is not None:
            tree["stream"]["window"] = self.window
        if self.sink is not None:
            tree["stream"]["sink"] = self.sink
        if self.size is not None:
            width, height = read_size(self.size)
            tree["stream"] |= {"width": width, "height": height}
        asked = [n for n, v in vars(self).items() if v is not None and n not in STREAM_SETTINGS]
        if asked and config.model is None:
            raise ConfigError(f"{config.name} has no model, so {', '.join(asked)} mean nothing")
        if config.model is not None:
            self._apply_to_model(tree, config, config.model)
        return parse_config(tree, config.name)

    def _apply_to_model(self, tree: dict[str, Any], config: Config, model: ModelSection) -> None:
        section = tree["model"]
        if self.steps is not None:
            section["sampler"] |= {
                "denoising_step_list": _thinned(model.sampler.denoising_step_list, self.steps),
                "reduced_step_list": None,
            }
        if self.decoder is not None:
            kind, _, path = self.decoder.partition("=")
            if kind not in DECODERS:
                raise ConfigError(f"--decoder {kind}: unknown; choose one of {', '.join(DECODERS)}")
            if not path and not self.random_weights and kind != model.decoder.kind:
                raise ConfigError(
                    f"--decoder {kind}: the configuration has no weights of that kind; write "
                    f"--decoder {kind}=PATH, or add --random-weights"
                )
            section["decoder"] |= {"kind": kind} | ({"weights": path} if path else {})
        if self.backend is not None:
            section["kernels"] = self.backend
        for name in ("eight_bit", "eight_bit_cache", "fused", "graphs"):
            if (value := vars(self)[name]) is not None:
                section[name] = value
        if self.random_weights:
            section["random_weights"] = True
            grid = model.transformer.learned_grid
            if grid is not None and self.size is not None:
                width, height = read_size(self.size)
                rows = grid[0] * height // config.stream.height
                columns = grid[1] * width // config.stream.width
                section["transformer"]["learned_grid"] = [rows, columns]


STREAM_SETTINGS = ("window", "sink", "size")


def read_size(text: str) -> tuple[int, int]:
    """Width and height of `WxH`.  Raises ConfigError."""
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if match is None:
        raise ConfigError(f"--size {text}: cannot be read; write width x height, such as 832x480")
    return int(match[1]), int(match[2])


def _value(name: str, text: str) -> object:
    if name in ("window", "sink", "steps"):
        if not text.isdigit():
            raise ConfigError(f"{name}={text}: not a number")
        return int(text)
    if name in ("fused", "graphs", "random_weights"):
        if text not in ("true", "false"):
            raise ConfigError(f"{name}={text}: write true or false")
        return text == "true"
    return text


def _thinned(steps: list[float], count: int) -> list[float]:
    """So many of the steps, evenly, the first among them."""
    if not 1 <= count <= len(steps):
        raise ConfigError(
            f"--steps {count}: the model has {len(steps)} steps; choose from 1 to {len(steps)}"
        )
    return [steps[index * len(steps) // count] for index in range(count)]
