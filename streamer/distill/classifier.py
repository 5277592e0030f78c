"""The judge: a small convolutional network that names what a clip shows.

Scene, time of day, weather and subject are read from single pictures, the motion from a clip of
CLIP_FRAMES pictures at CLIP_FPS.  It is trained on rendered clips only, softened and soiled as an
autoencoder and a codec do, so that it judges what is there and not how sharp it is.  It never sees
what a model makes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from streamer.config import weights_path
from streamer.distill.edition import EDITIONS, Edition, load_edition
from streamer.distill.optimizer import Muon, build_optimizer
from streamer.distill.sheets import Picture, Row, draw_sheet
from streamer.distill.world import Renderer, sample_specs
from streamer.errors import ConfigError, WeightsError
from streamer.models.checkpoint import load_weights, read_tensors, save_weights

CLIP_FRAMES = 8
CLIP_FPS = 4
HEIGHT, WIDTH = 80, 128
WEIGHTS_FILE = "classifier.safetensors"
SHIPPED = weights_path(f"assets/storybook/{WEIGHTS_FILE}")
MOVING = ("motion", "heading", "camera")
"""The attributes that only a clip shows; all others are read from single pictures."""

_HELD_OUT = 1 << 40
_SUBJECT = 3  # the place of the subject among the attributes
_SUBJECTS_OWN = ("motion", "heading")
_LEFT_RIGHT = (
    ("motion", "moves left", "moves right"),
    ("heading", "left", "right"),
    ("camera", "pans left", "pans right"),
)
_WIDENING = {"small": 1, "full": 2}


class AttributeClassifier(nn.Module):
    """Names an edition's classes in pictures and clips.  Holds weights only."""

    def __init__(self, edition: Edition) -> None:
        super().__init__()
        self.edition = edition
        self.looks = tuple(name for name in edition.attributes if name not in MOVING)
        self.movings = tuple(name for name in edition.attributes if name in MOVING)
        sizes = {name: len(classes) for name, classes in edition.attributes.items()}
        self._splits = [sizes[name] for name in self.movings]
        wide = _WIDENING[edition.name]
        self.look_trunk = nn.Sequential(
            nn.Conv2d(3, 24 * wide, 5, 2, 2),
            nn.SiLU(),
            nn.Conv2d(24 * wide, 48 * wide, 3, 2, 1),
            _Block(48 * wide),
            nn.Conv2d(48 * wide, 96 * wide, 3, 2, 1),
            _Block(96 * wide),
            _Block(96 * wide),
            _Block(96 * wide),
            nn.GroupNorm(8, 96 * wide),
            nn.SiLU(),
        )
        self.look_heads = nn.ModuleDict(
            {name: _Head(96 * wide, sizes[name]) for name in self.looks}
        )
        self.motion_trunk = nn.Sequential(
            nn.Conv2d(3 * CLIP_FRAMES + 5, 48 * wide, 5, 2, 2),
            nn.SiLU(),
            nn.Conv2d(48 * wide, 64 * wide, 3, 2, 1),
            _Block(64 * wide),
            nn.Conv2d(64 * wide, 48 * wide, 3, 2, 1),
            _Block(48 * wide),
            nn.GroupNorm(8, 48 * wide),
            nn.SiLU(),
        )
        self.motion_head = nn.Linear(48 * wide * 8 * 5, sum(self._splits))
        self.register_buffer("place", _coordinates(HEIGHT // 2, WIDTH // 2), persistent=False)

    place: Tensor

    def look(self, pictures: Tensor) -> dict[str, Tensor]:
        """Judge what pictures of one clip show together: [B, T, 3, HEIGHT, WIDTH], -1..1.

        Result: logits [B, classes] for each of `looks`.
        """
        features: Tensor = self.look_trunk(pictures.flatten(0, 1))
        together = features.view(*pictures.shape[:2], *features.shape[1:])
        return {name: head(together) for name, head in self.look_heads.items()}

    def move(self, clips: Tensor) -> dict[str, Tensor]:
        """Judge what moves, and how: [B, CLIP_FRAMES, 3, HEIGHT, WIDTH], -1..1.

        Result: logits [B, classes] for each of `movings`.  What does not move is taken out of
        every frame and given once beside them.
        """
        small = F.avg_pool2d(clips.flatten(0, 1), 2).view(
            len(clips), -1, 3, HEIGHT // 2, WIDTH // 2
        )
        still = small.mean(1)
        moving = 3 * (small - still[:, None]).flatten(1, 2)
        place = self.place.expand(len(clips), -1, -1, -1)
        features = self.motion_trunk(torch.cat([moving, still, place], dim=1))
        logits = self.motion_head(features.flatten(1)).split(self._splits, dim=1)
        return dict(zip(self.movings, logits, strict=True))

    @torch.inference_mode()
    def classify(self, clips: Tensor) -> dict[str, Tensor]:
        """Judge clips, uint8 [B, CLIP_FRAMES, 3, H, W] at CLIP_FPS: logits [B, classes] of each.

        Any picture size.  Raises ValueError for another number of frames.
        """
        if clips.shape[1] != CLIP_FRAMES:
            raise ValueError(
                f"clips have {clips.shape[1]} frames; the judge wants {CLIP_FRAMES} at "
                f"{CLIP_FPS} a second (see choose_frames)"
            )
        prepared = prepare(clips)
        found = {**self.look(prepared), **self.move(prepared)}
        return {name: found[name] for name in self.edition.attributes}

    @torch.inference_mode()
    def classify_pictures(self, pictures: Tensor) -> dict[str, Tensor]:
        """Judge single pictures, uint8 [B, 3, H, W]: logits [B, classes] for each of `looks`."""
        return self.look(prepare(pictures[:, None]))


class _Block(nn.Module):
    """A residual 3x3 convolution, normalised and activated before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x, result: [N, C, h, w]."""
        change: Tensor = self.conv(F.silu(self.norm(x)))
        return x + change


class _Head(nn.Module):
    """Logits of the places that matter: every place votes, with a weight of its own."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.vote = nn.Conv2d(channels, num_classes, 1)
        self.weight = nn.Conv2d(channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """features: [B, T, C, h, w].  Result: [B, classes]."""
        flat = features.flatten(0, 1)
        votes = self.vote(flat).unflatten(0, features.shape[:2]).transpose(1, 2).flatten(2)
        weights = self.weight(flat).unflatten(0, features.shape[:2]).flatten(1).softmax(1)
        return torch.einsum("bcn,bn->bc", votes, weights)


def _coordinates(height: int, width: int) -> Tensor:
    """Row and column of every pixel, -1..1: [2, h, w]."""
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def prepare(clips: Tensor) -> Tensor:
    """uint8 [B, T, 3, H, W] of any size to the judge's: float [B, T, 3, HEIGHT, WIDTH], -1..1."""
    flat = clips.flatten(0, 1).float()
    if flat.shape[-2:] != (HEIGHT, WIDTH):
        size = (HEIGHT, WIDTH)
        flat = F.interpolate(flat, size, mode="bilinear", antialias=True, align_corners=False)
    return (flat / 127.5 - 1).view(*clips.shape[:3], HEIGHT, WIDTH)


def choose_frames(frames: NDArray[np.uint8], fps: int) -> Tensor:
    """The last CLIP_FRAMES frames at CLIP_FPS of a stream's: [T, H, W, 3] to [8, 3, H, W], uint8.

    Raises ValueError when the frames do not reach that far back.
    """
    stride = max(1, round(fps / CLIP_FPS))
    needed = (CLIP_FRAMES - 1) * stride + 1
    if len(frames) < needed:
        raise ValueError(f"{len(frames)} frames; a clip at {fps} fps takes {needed}")
    chosen = frames[len(frames) - needed :: stride]
    return torch.from_numpy(np.ascontiguousarray(chosen)).permute(0, 3, 1, 2)


def save_classifier(classifier: AttributeClassifier, path: Path) -> None:
    """Write the weights as float16, with the classes that they name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    edition = classifier.edition
    metadata = {"edition": edition.name, "attributes": edition.signature()}
    save_weights(classifier.state_dict(), path, "float16", metadata)


def load_classifier(path: Path = SHIPPED) -> AttributeClassifier:
    """Read what `save_classifier` wrote, for judging.

    Files without the name of an edition are of the small one.
    Raises WeightsError when the file is missing, damaged or knows another world.
    """
    read_tensors([path])  # a missing or damaged file is named there
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    name = metadata.get("edition", "small")
    known = load_edition(name).signature() if name in EDITIONS else ""
    if metadata.get("attributes") != known:
        raise WeightsError(
            f"{path}: names other classes than the {name} edition has; "
            "make it again with `streamer distill classifier --out DIR`"
        )
    classifier = AttributeClassifier(load_edition(name))
    load_weights(classifier, [path])
    return classifier.eval().requires_grad_(False)


# ---- training -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesson:
    """Rendered clips, uint8 [B, CLIP_FRAMES, 3, HEIGHT, WIDTH], and their classes, long [B, A]."""

    clips: Tensor
    classes: Tensor


def render_lesson(renderer: Renderer, num_clips: int, seed: int) -> Lesson:
    """Draw specs, every class equally likely, and render them; the same for the same seed.

    renderer: at CLIP_FPS, and of twice the judge's size, so that pictures are averaged down as a
    model's are.
    """
    generator = torch.Generator().manual_seed(seed)
    edition = renderer.edition
    specs = sample_specs(edition, num_clips, generator)
    seeds = torch.randint(1 << 31, (num_clips,), generator=generator).tolist()
    starts = (torch.rand(num_clips, generator=generator) * 60).tolist()
    clips = renderer.render(specs, seeds, CLIP_FRAMES, start_s=starts)
    rows = [[spec.of(name) for name in edition.attributes] for spec in specs]
    small = ((prepare(clips) + 1) * 127.5).round().to(torch.uint8)
    return Lesson(small, torch.tensor(rows))


@dataclass(frozen=True)
class ClassifierStageConfig:
    """Sizes of a lesson.

    batch: clips of a step.  pool_clips: clips rendered at a time, every steps_per_pool steps.
    pools: pools that clips are drawn from, the newest ones.  pictures: of each clip, for the looks.
    """

    batch: int = 32
    pool_clips: int = 32
    steps_per_pool: int = 4
    pools: int = 8
    pictures: int = 3
    held_out_clips: int = 240
    muon_lr: float = 0.02
    adam_lr: float = 3e-3


class ClassifierStage:
    """The judge, its loss and its clips.  Owned by one training run."""

    def __init__(
        self,
        edition: Edition,
        config: ClassifierStageConfig | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        start: Path | None = None,
    ) -> None:
        """start: an earlier judge of the same edition to go on from, after its world has changed.

        Raises WeightsError when it cannot be read, ConfigError when it judges another edition.
        """
        self.edition = edition
        self.config = config or ClassifierStageConfig()
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classifier = AttributeClassifier(edition)
        if start is not None:
            earlier = load_classifier(start)
            if earlier.edition != edition:
                raise ConfigError(
                    f"{start} judges the {earlier.edition.name} edition, not the {edition.name} one"
                )
            classifier.load_state_dict(earlier.state_dict())
        self.classifier = classifier.to(self.device)
        self._renderer = Renderer(edition, device, 2 * HEIGHT, 2 * WIDTH, CLIP_FPS)
        self._seed = seed
        self._pools: dict[int, Lesson] = {}
        self._held_out: Lesson | None = None

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The judge."""
        return {"classifier": self.classifier}

    @property
    def averaged(self) -> tuple[str, ...]:
        """The judge."""
        return ("classifier",)

    def build_optimizer(self) -> Muon:
        """Muon for the convolutions, AdamW for first layers, heads and norms."""
        config = self.config
        return build_optimizer([self.classifier], muon_lr=config.muon_lr, adam_lr=config.adam_lr)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of every attribute, on softened and mirrored clips."""
        lesson = self._draw(step, generator)
        clips, classes = soften(self.edition, lesson, generator)
        order = torch.randperm(CLIP_FRAMES, generator=generator)[: self.config.pictures]
        logits = {**self.classifier.look(clips[:, order]), **self.classifier.move(clips)}
        losses = {}
        for i, name in enumerate(self.edition.attributes):
            wanted = classes[:, i]
            if name in _SUBJECTS_OWN:  # nothing moves in a clip without a subject
                wanted = wanted.masked_fill(
                    classes[:, _SUBJECT] == self.edition.no_subject_number, -1
                )
            losses[name] = F.cross_entropy(
                logits[name], wanted, ignore_index=-1, label_smoothing=0.02
            )
        total = torch.stack(list(losses.values())).sum()
        return total, {name: value.item() for name, value in losses.items()}

    def sample_sheet(self, path: Path) -> dict[str, float]:
        """Held-out clips with what the judge says of them; returns its accuracies there."""
        lesson = self._test()
        guesses = self._guess(lesson.clips)
        rows = []
        names_of = self.edition.attributes.values()
        for number in range(min(8, len(guesses))):
            said = [names[guesses[number, i]] for i, names in enumerate(names_of)]
            true = [names[lesson.classes[number, i]] for i, names in enumerate(names_of)]
            label = "\n".join(
                f"{a}" if a == b else f"{a}, truly {b}" for a, b in zip(said, true, strict=True)
            )
            frames = lesson.clips[number, ::2].permute(0, 2, 3, 1).cpu().numpy()
            rows.append(Row(label, tuple(Picture(frame) for frame in frames)))
        draw_sheet(path, "held-out clips and what the classifier says", rows)
        accuracies = measure_accuracy(self.edition, guesses, lesson.classes)
        return {f"held_out_{name}": value for name, value in accuracies.items()}

    def export(self, directory: Path) -> None:
        """Write the judge and its accuracies on held-out clips."""
        save_classifier(self.classifier, directory / WEIGHTS_FILE)
        lesson = self._test()
        guesses = self._guess(lesson.clips)
        numbers = {
            "clips": len(guesses),
            "accuracy": measure_accuracy(self.edition, guesses, lesson.classes),
        }
        (directory / "classifier.json").write_text(json.dumps(numbers, indent=2) + "\n")

    def _guess(self, clips: Tensor) -> Tensor:
        parts = []
        for first in range(0, len(clips), 24):
            logits = self.classifier.classify(clips[first : first + 24])
            parts.append(
                torch.stack([logits[name].argmax(1) for name in self.edition.attributes], dim=1)
            )
        return torch.cat(parts)

    def _test(self) -> Lesson:
        if self._held_out is None:
            size = min(24, self.config.held_out_clips)
            lessons = [
                render_lesson(self._renderer, size, _HELD_OUT + number)
                for number in range(self.config.held_out_clips // size)
            ]
            self._held_out = Lesson(
                torch.cat([lesson.clips for lesson in lessons]),
                torch.cat([lesson.classes for lesson in lessons]),
            )
        return self._held_out

    def _draw(self, step: int, generator: torch.Generator) -> Lesson:
        """A batch from the newest pools, which are rendered when they are first wanted."""
        newest = step // self.config.steps_per_pool
        wanted = range(max(0, newest - self.config.pools + 1), newest + 1)
        for number in wanted:
            if number not in self._pools:
                seed = (self._seed << 44) + number
                self._pools[number] = render_lesson(self._renderer, self.config.pool_clips, seed)
        self._pools = {number: self._pools[number] for number in wanted}
        clips = torch.cat([self._pools[number].clips for number in wanted])
        classes = torch.cat([self._pools[number].classes for number in wanted])
        chosen = torch.randperm(len(clips), generator=generator)[: self.config.batch]
        return Lesson(clips[chosen], classes[chosen].to(self.device))


def soften(edition: Edition, lesson: Lesson, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips as a small autoencoder or a codec might leave them, and their classes.

    Half are mirrored (left becomes right); all are moved a little, some made soft, some noisy, and
    the colours of each are shifted.  Result: float [B, 8, 3, HEIGHT, WIDTH], -1..1; long [B, A].
    """
    num = len(lesson.clips)
    device = lesson.clips.device

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    clips, classes = prepare(lesson.clips), lesson.classes.clone()
    is_mirrored = chance(num) < 0.5
    clips = torch.where(is_mirrored[:, None, None, None, None], clips.flip(-1), clips)
    for attribute, *pair in _LEFT_RIGHT:
        names = edition.attributes.get(attribute, ())
        if pair[0] not in names:
            continue
        place = list(edition.attributes).index(attribute)
        left, right = (names.index(name) for name in pair)
        before = lesson.classes[:, place]
        classes[is_mirrored & (before == left), place] = right
        classes[is_mirrored & (before == right), place] = left
    offsets = ((chance(num, 2) * 2 - 1) * torch.tensor([2.5, 4.5], device=device)).round().long()
    softness = 1 + 2.2 * chance(num) ** 1.5
    pieces = []
    for clip, (down, across), soft in zip(clips, offsets.tolist(), softness.tolist(), strict=True):
        moved = _shift(clip, down, across)
        pieces.append(_blur(moved, soft) if soft > 1.15 else moved)
    clips = torch.stack(pieces)
    shape = (num, CLIP_FRAMES, 3)
    fine = torch.randn((*shape[:2], 1, HEIGHT, WIDTH), generator=generator).to(device)
    coarse = torch.randn((*shape, HEIGHT // 8, WIDTH // 8), generator=generator).to(device)
    coarse = F.interpolate(coarse.flatten(0, 1), (HEIGHT, WIDTH), mode="bilinear")
    amount = chance(num, 1, 1, 1, 1) ** 2
    clips = clips + amount * (0.06 * fine + 0.10 * coarse.view_as(clips))
    gain = 1 + 0.16 * (chance(num, 1, 3, 1, 1) - 0.5)
    return clips * gain + 0.16 * (chance(num, 1, 3, 1, 1) - 0.5), classes


def _shift(clip: Tensor, down: int, across: int) -> Tensor:
    """Move a clip [T, 3, h, w] by whole pixels; the edge is repeated."""
    most = max(abs(down), abs(across))
    if not most:
        return clip
    padded = F.pad(clip, (most, most, most, most), mode="replicate")
    top, left = most - down, most - across
    return padded[..., top : top + clip.shape[-2], left : left + clip.shape[-1]]


def _blur(clip: Tensor, factor: float) -> Tensor:
    """Make a clip [T, 3, h, w] smaller by `factor` and large again."""
    size = (clip.shape[-2], clip.shape[-1])
    small = (max(8, round(size[0] / factor)), max(8, round(size[1] / factor)))
    less = F.interpolate(clip, small, mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(less, size, mode="bilinear", align_corners=False)


def measure_accuracy(edition: Edition, guesses: Tensor, classes: Tensor) -> dict[str, float]:
    """Share of right guesses for each attribute; guesses, classes: long [B, A].

    The motion and the heading count only where there is a subject to move.
    """
    is_right = guesses == classes
    has_subject = classes[:, _SUBJECT] != edition.no_subject_number
    return {
        name: float(
            is_right[has_subject if name in _SUBJECTS_OWN else slice(None), i].float().mean()
        )
        for i, name in enumerate(edition.attributes)
    }
