"""The storybook world: picture-book clips rendered in batches, on a CPU or a GPU.

A clip is what an edition lets it be: a scene, a time of day, a weather, a subject and its motion,
and where the edition has them a heading, a number, a companion and a camera.  Its seed settles
everything else (phases, places), and every quantity is a closed formula of absolute time: the same
spec and seed show the same world whenever a clip starts.  A change of spec inside a clip is
rendered as a morph.

Times are counted here; pictures are the business of the edition's painter.  Refuses to know words
(captions.py) and models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Protocol

import torch
from torch import Tensor

from streamer.distill.edition import Edition, SceneSpec, agree

__all__ = ["Painter", "Renderer", "SceneSpec", "Shot", "open_painter", "sample_specs"]

_CPU_STEP = 8
"""Frames painted at a time: so many stay within a core's cache."""
_GPU_STEP = 256


@dataclass(frozen=True)
class Shot:
    """What frames are painted from; first axis N, the frames.

    old, new: [N, 9] class numbers before and after the change, in the order of SceneSpec.
    change: [N], 0 (old) to 1 (new).  t: [N] seconds.  since: [N] seconds since the change began.
    fate: [N, fates] in 0..1, the clip's chance numbers.
    """

    old: Tensor
    new: Tensor
    change: Tensor
    t: Tensor
    since: Tensor
    fate: Tensor

    def rows(self, which: slice | Tensor) -> Shot:
        """Some of the frames."""
        return Shot(*(column[which] for column in vars(self).values()))

    def to(self, device: torch.device) -> Shot:
        """The same on a device."""
        return Shot(*(column.to(device) for column in vars(self).values()))

    def mix(self, table: Tensor, attribute: int) -> Tensor:
        """A table's entry for an attribute, between the old and the new class: [N, ...]."""
        old, new = table[self.old[:, attribute]], table[self.new[:, attribute]]
        return torch.lerp(old, new, self.change.view(-1, *[1] * (old.dim() - 1)))


class Painter(Protocol):
    """The pictures of one edition at one size, on one device."""

    @property
    def num_fates(self) -> int:
        """Chance numbers of a clip."""

    def prepare(self, shot: Shot) -> Callable[[slice], Tensor]:
        """What paints some of the shot's frames: [n, W, 3, H], colours about 0..1.

        shot: on the CPU.  All that is decided on the host is decided here, not while painting.
        """


def sample_specs(edition: Edition, count: int, generator: torch.Generator) -> list[SceneSpec]:
    """Draw specs, every class of every attribute equally likely, but only such as can be."""
    columns = [
        torch.randint(len(names), (count,), generator=generator).tolist()
        for names in edition.attributes.values()
    ]
    specs = [SceneSpec(*row) for row in zip(*columns, strict=True)]
    return [agree(edition, spec) for spec in specs]


def open_painter(edition: Edition, device: torch.device, height: int, width: int) -> Painter:
    """The painter of an edition."""
    if edition.name == "small":
        from streamer.distill.small.painter import SmallPainter

        return SmallPainter(device, height, width)
    from streamer.distill.full.painter import FullPainter

    return FullPainter(edition, device, height, width)


class Renderer:
    """Renders clips of one edition at one size.  Never changes after it is made."""

    def __init__(
        self,
        edition: Edition,
        device: torch.device | str = "cpu",
        height: int = 160,
        width: int = 256,
        fps: int = 16,
    ) -> None:
        """Paint everything for one picture size.  Raises ValueError for a picture too small."""
        if height < 16 or width < height:
            raise ValueError(
                f"height={height}, width={width}: the world is at least 16 pixels high and not "
                "narrower than high"
            )
        self.edition = edition
        self.device = torch.device(device)
        self.height, self.width, self.fps = height, width, fps
        self._painter = open_painter(edition, self.device, height, width)

    @torch.no_grad()
    def render(
        self,
        specs: Sequence[SceneSpec],
        seeds: Sequence[int],
        num_frames: int,
        *,
        start_s: float | Sequence[float] = 0.0,
        switch_to: Sequence[SceneSpec] | None = None,
        switch_s: Sequence[float] | None = None,
        morph_s: float = 1.0,
    ) -> Tensor:
        """Render clips: uint8 [B, T, 3, H, W].

        start_s: the absolute time of the first frame, one for all clips or one for each.
        switch_to, switch_s: what each clip turns into and the absolute time at which it begins to.
        morph_s: how long that takes.
        Raises ValueError when the lists differ in length.
        """
        num = len(specs)
        starts = [float(start_s)] * num if isinstance(start_s, (int, float)) else list(start_s)
        after = list(specs) if switch_to is None else list(switch_to)
        when = [0.0] * num if switch_s is None else list(switch_s)
        if (switch_to is None) != (switch_s is None):
            raise ValueError("switch_to and switch_s are given together or not at all")
        lengths = {len(seeds), len(starts), len(after), len(when)}
        if lengths != {num}:
            raise ValueError(
                f"{num} specs, {len(seeds)} seeds, {len(starts)} start_s, {len(after)} switch_to, "
                f"{len(when)} switch_s: give one of each for every clip"
            )
        t = torch.tensor(starts, dtype=torch.float64)[:, None]
        t = t + torch.arange(num_frames, dtype=torch.float64) / self.fps
        since = t - torch.tensor(when, dtype=torch.float64)[:, None]
        ramp = (since / morph_s).clamp(0, 1)
        num_fates = self._painter.num_fates
        fates = [torch.rand(num_fates, generator=torch.Generator().manual_seed(s)) for s in seeds]

        def spread(rows: Tensor) -> Tensor:
            return rows.repeat_interleave(num_frames, 0)

        shot = Shot(
            spread(self._numbers(specs)),
            spread(self._numbers(after)),
            (ramp * ramp * (3 - 2 * ramp)).flatten().float(),
            t.flatten().float(),
            since.flatten().float(),
            spread(torch.stack(fates)) if fates else torch.zeros(0, num_fates),
        )
        shape = (num * num_frames, 3, self.height, self.width)
        video = torch.empty(shape, dtype=torch.uint8, device=self.device)
        paint = self._painter.prepare(shot)
        step = _CPU_STEP if self.device.type == "cpu" else _GPU_STEP
        for first in range(0, shape[0], step):
            which = slice(first, first + step)
            frames = paint(which).clamp_(0, 1).mul_(255).add_(0.5)
            video[which] = frames.to(torch.uint8).permute(0, 2, 3, 1)
        return video.view(num, num_frames, *shape[1:])

    @staticmethod
    def _numbers(specs: Sequence[SceneSpec]) -> Tensor:
        return torch.tensor([astuple(s) for s in specs], dtype=torch.long).view(-1, 9)
