"""What an evaluation finds: plain values, written as JSON.

Knows nothing of models and pictures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

LONGEST_SWITCH = 8
"""A new scene that is not seen within so many blocks counts as never."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How much to look at.

    num_prompts: held-out captions.  num_blocks: blocks made for each.  drift_s, num_streams: how
    long, and how many streams.  num_switches: prompt changes.  num_reconstructions: clips for the
    autoencoder, of the same captions.
    """

    num_prompts: int = 64
    num_blocks: int = 3
    drift_s: float = 60.0
    num_streams: int = 4
    num_switches: int = 12
    num_reconstructions: int = 24
    seed: int = 0


@dataclass(frozen=True)
class Obedience:
    """Shares of captions, 0..1, whose attribute the judge recognises; None when none speaks of it.

    model: in the model's video.  classifier_on_renders: in the renderer's clips of the same specs.
    classifier_on_reconstructions: in some of those after the model's autoencoder, the most that can
    be asked for.  chance: of a guess.  num_scored: captions that speak of the attribute.
    """

    model: float | None
    classifier_on_renders: float | None
    classifier_on_reconstructions: float | None
    chance: float
    num_scored: int


@dataclass(frozen=True)
class Look:
    """Measures of a second of video; colours count 0..255.

    red, green, blue: their means.  contrast: deviation of the brightness.  saturation: mean
    distance of the largest to the smallest colour.  sharpness: mean absolute Laplacian of the
    brightness; grids and noise raise it.  motion: mean absolute difference of frames 1/4 s apart.
    """

    red: float
    green: float
    blue: float
    contrast: float
    saturation: float
    sharpness: float
    motion: float


@dataclass(frozen=True)
class Moment:
    """A stream at one time.  score: share of the caption's attributes that the judge recognises."""

    at_s: float
    score: float
    look: Look


@dataclass(frozen=True)
class StreamDrift:
    """One stream over time.

    is_frozen, is_grey, is_exploded: whether its end moves less than half as much as the stillest
    render, has less than half the contrast of the dullest one, or is twice as sharp as the sharpest
    (grids, noise).
    """

    caption: str
    seed: int
    moments: tuple[Moment, ...]
    is_frozen: bool
    is_grey: bool
    is_exploded: bool


@dataclass(frozen=True)
class Drift:
    """All streams.  mean: over the streams, at each time.  num_*: streams that ended so."""

    mean: tuple[Moment, ...]
    streams: tuple[StreamDrift, ...]
    renders: Look
    num_frozen: int
    num_grey: int
    num_exploded: int


@dataclass(frozen=True)
class Switches:
    """Blocks from a prompt change until the new scene is recognised (1: the first new block).

    num_already: the picture showed the new scene before it was asked for; not counted.
    num_never: not recognised within LONGEST_SWITCH blocks; counted in no mean.
    """

    blocks: tuple[int, ...]
    mean: float | None
    num_never: int
    num_already: int


@dataclass(frozen=True)
class Reconstruction:
    """Peak signal-to-noise ratio of the autoencoder on held-out renders, in dB."""

    mean_db: float
    worst_db: float
    num_clips: int


@dataclass(frozen=True)
class EvaluationReport:
    """Everything that was found, and how."""

    model: str
    date: str
    device: str
    threads: int
    seconds: float
    fps_generated: float
    options: EvaluationOptions
    obedience: dict[str, Obedience]
    drift: Drift | None
    switch_blocks: Switches | None
    reconstruction: Reconstruction

    @property
    def reconstruction_db(self) -> float:
        """The mean of the autoencoder."""
        return self.reconstruction.mean_db

    def tree(self) -> dict[str, object]:
        """The report as JSON has it."""
        return {**asdict(self), "reconstruction_db": self.reconstruction_db}

    def summary(self) -> str:
        """The report for people."""

        def percent(share: float | None) -> str:
            return "     -" if share is None else f"{share:6.0%}"

        lines = [f"{self.model}, {self.options.num_prompts} held-out captions, {self.date}", ""]
        lines.append("             model  renders  reconstructed  chance  scored")
        for name, found in self.obedience.items():
            lines.append(
                f"  {name:<9} {percent(found.model)}   {percent(found.classifier_on_renders)}"
                f"         {percent(found.classifier_on_reconstructions)}  {percent(found.chance)}"
                f"  {found.num_scored:6}"
            )
        if self.drift is not None:
            lines += ["", "  second  score  contrast  saturation  sharpness  motion"]
            for moment in self.drift.mean:
                look = moment.look
                lines.append(
                    f"  {moment.at_s:6.0f} {moment.score:6.0%} {look.contrast:9.1f} "
                    f"{look.saturation:11.1f} {look.sharpness:10.2f} {look.motion:7.2f}"
                )
            lines.append(
                f"  of {len(self.drift.streams)} streams: {self.drift.num_frozen} frozen, "
                f"{self.drift.num_grey} grey, {self.drift.num_exploded} exploded"
            )
        if (switches := self.switch_blocks) is not None:
            mean = "-" if switches.mean is None else f"{switches.mean:.1f}"
            lines += ["", f"  a new scene is seen after {mean} blocks; never: {switches.num_never}"]
        lines.append(
            f"  reconstruction {self.reconstruction_db:.1f} dB; "
            f"{self.fps_generated:.1f} frames a second; took {self.seconds:.0f} s"
        )
        return "\n".join(lines)
