"""What an evaluation finds: plain values, written as JSON.

Knows nothing of models and pictures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

LONGEST_SWITCH = 8
"""What is not seen within so many blocks of a change counts as never."""
IN_TIME_S = 1.5
"""A change is in time when it is seen so many seconds after it was asked for."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How much to look at.

    num_prompts: held-out captions.  num_blocks: blocks made for each.  drift_s, num_streams: how
    long, and how many streams.  num_switches: prompt changes of each kind.  num_reconstructions:
    clips for the autoencoder, of the same captions.  num_known: captions in words of training, to
    compare unseen ones with.  teacher_steps, teacher_guidance: of the teacher's clips.
    """

    num_prompts: int = 64
    num_blocks: int = 3
    drift_s: float = 60.0
    num_streams: int = 4
    num_switches: int = 12
    num_reconstructions: int = 24
    num_known: int = 32
    teacher_steps: int = 24
    teacher_guidance: float = 3.0
    seed: int = 0


@dataclass(frozen=True)
class Obedience:
    """Shares of captions, 0..1, whose attribute the judge recognises; None when none speaks of it.

    model: in the model's video.  classifier_on_renders: in the renderer's clips of the same specs.
    classifier_on_reconstructions: in some of those after the model's autoencoder, the most that can
    be asked for.  teacher: in the teacher's clips, when there is one.  chance: of a guess.
    num_scored: captions that speak of the attribute.  top5_*: the same, with the right class among
    the judge's five likeliest.
    """

    model: float | None
    classifier_on_renders: float | None
    classifier_on_reconstructions: float | None
    chance: float
    num_scored: int
    teacher: float | None = None
    top5_model: float | None = None
    top5_classifier_on_renders: float | None = None
    top5_classifier_on_reconstructions: float | None = None
    top5_teacher: float | None = None
    top5_chance: float = 1.0


@dataclass(frozen=True)
class Synonyms:
    """Shares of what captions say that the judge recognises, by whether training knew the words.

    Both over the attributes that have unseen wordings, and the same specs.  points: how many
    percentage points lower the unseen ones are.  num_*: how many were scored.
    """

    known: float | None
    unseen: float | None
    points: float | None
    num_known: int
    num_unseen: int


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
    """A stream at one time.  score: share of the caption's attributes that the judge recognises.

    foreign, foreign_share: how foreign its patches are to the prompt; see patches.Foreign.
    """

    at_s: float
    score: float
    look: Look
    foreign: float | None = None
    foreign_share: float | None = None


@dataclass(frozen=True)
class Change:
    """A measure at the last moment of streams against the first.

    first, last: medians over the streams.  median, worst: of the changes of single streams, last
    minus first; the worst is the lowest of a score, else the one farthest from 0.
    """

    first: float
    last: float
    median: float
    worst: float


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
    """All streams.  mean: over the streams, at each time.  num_*: streams that ended so.

    table: by measure: score, red, green, blue, contrast, saturation, sharpness, motion, foreign,
    foreign_share.  teacher: the mean look of the teacher's clips, when there is one.
    """

    mean: tuple[Moment, ...]
    streams: tuple[StreamDrift, ...]
    renders: Look
    num_frozen: int
    num_grey: int
    num_exploded: int
    table: dict[str, Change] = field(default_factory=dict)
    teacher: Look | None = None


@dataclass(frozen=True)
class Switches:
    """Blocks from a prompt change until the new scene or subject is recognised (1: the first new
    block); a subject is when it is among the judge's five likeliest.

    num_already: the picture showed it before it was asked for; not counted.
    num_never: not recognised within LONGEST_SWITCH blocks; counted in no mean.
    in_time: share of all counted changes that were recognised within limit_s seconds.
    """

    blocks: tuple[int, ...]
    mean: float | None
    num_never: int
    num_already: int
    in_time: float | None = None
    limit_s: float = IN_TIME_S


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
    subject_switch_blocks: Switches | None = None
    synonyms: Synonyms | None = None
    teacher: str | None = None

    @property
    def reconstruction_db(self) -> float:
        """The mean of the autoencoder."""
        return self.reconstruction.mean_db

    def tree(self) -> dict[str, object]:
        """The report as JSON has it."""
        return {**asdict(self), "reconstruction_db": self.reconstruction_db}

    def summary(self) -> str:
        """The report for people."""
        lines = [f"{self.model}, {self.options.num_prompts} held-out captions, {self.date}", ""]
        lines += self._obedience_lines()
        if self.drift is not None:
            lines += self._drift_lines(self.drift)
        if self.switch_blocks is not None:
            lines += ["", _tell("scene", self.switch_blocks)]
        if self.subject_switch_blocks is not None:
            lines.append(_tell("subject", self.subject_switch_blocks))
        lines.append(
            f"  reconstruction {self.reconstruction_db:.1f} dB; "
            f"{self.fps_generated:.1f} frames a second; took {self.seconds:.0f} s"
        )
        return "\n".join(lines)

    def _obedience_lines(self) -> list[str]:
        head = "             model  teacher  renders  reconstructed  chance  scored"
        lines = [head]
        for name, found in self.obedience.items():
            lines.append(
                f"  {name:<9} {_percent(found.model)}   {_percent(found.teacher)}"
                f"   {_percent(found.classifier_on_renders)}"
                f"         {_percent(found.classifier_on_reconstructions)}"
                f"  {_percent(found.chance)}  {found.num_scored:6}"
            )
            if found.top5_chance < 1:
                lines.append(
                    f"    top 5   {_percent(found.top5_model)}   {_percent(found.top5_teacher)}"
                    f"   {_percent(found.top5_classifier_on_renders)}"
                    f"         {_percent(found.top5_classifier_on_reconstructions)}"
                    f"  {_percent(found.top5_chance)}"
                )
        if self.synonyms is not None and self.synonyms.points is not None:
            told = self.synonyms
            lines.append(
                f"  words that training knew {_percent(told.known)}, unseen ones "
                f"{_percent(told.unseen)}: {told.points:.0f} points lower"
            )
        return lines

    def _drift_lines(self, drift: Drift) -> list[str]:
        lines = ["", "  second  score  contrast  saturation  sharpness  motion  foreign patches"]
        for moment in drift.mean:
            look = moment.look
            foreign = (
                ""
                if moment.foreign is None
                else (f"  {moment.foreign:7.2f} {moment.foreign_share or 0:7.0%}")
            )
            lines.append(
                f"  {moment.at_s:6.0f} {moment.score:6.0%} {look.contrast:9.1f} "
                f"{look.saturation:11.1f} {look.sharpness:10.2f} {look.motion:7.2f}{foreign}"
            )
        lines += ["", "  change         first    last  median   worst"]
        for name, change in drift.table.items():
            lines.append(
                f"  {name:<13} {change.first:6.2f}  {change.last:6.2f}  {change.median:+6.2f}"
                f"  {change.worst:+6.2f}"
            )
        lines.append(
            f"  of {len(drift.streams)} streams: {drift.num_frozen} frozen, "
            f"{drift.num_grey} grey, {drift.num_exploded} exploded"
        )
        return lines


def _percent(share: float | None) -> str:
    return "     -" if share is None else f"{share:6.0%}"


def _tell(what: str, switches: Switches) -> str:
    mean = "-" if switches.mean is None else f"{switches.mean:.1f}"
    in_time = (
        ""
        if switches.in_time is None
        else (f"; within {switches.limit_s:g} s: {switches.in_time:.0%}")
    )
    return f"  a new {what} is seen after {mean} blocks; never: {switches.num_never}{in_time}"
