"""Patches: does a picture hold something that does not belong into its scene?

Means over whole pictures do not notice a few squares of sky with the colours of a wall, which is
how streams of a small model decay.  So pictures are cut into small patches, each described by the
mean colours of its quarters, and each is compared with all patches at about its height in renders
of the same prompt.  The distance to the nearest tells how foreign it is; how foreign patches of
other renders of the prompt are is the measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from streamer.distill.world import Renderer, SceneSpec

PATCH_PX = 16
_QUARTER_PX = PATCH_PX // 2
_REACH = 1
"""Patches so many rows higher or lower are compared, too."""
_KNOWN, _PROBES, _FRAMES = 24, 8, 4
"""Renders that are known, renders that are compared with them, and frames of each."""
_LATEST_S = 60.0
_LEAST = 1.0
"""The least distance, of 255, that counts as one."""


@dataclass(frozen=True)
class Foreign:
    """How foreign a picture is to its prompt.

    distance: the distance that 95 of 100 patches stay below, as a multiple of that of renders: 1 is
    a render's own.  share: of patches more foreign than 99 of 100 patches of renders.
    """

    distance: float
    share: float


@dataclass(frozen=True)
class Familiar:
    """The patches of renders of one prompt.

    patches: [rows, n, 12].  usual, rare: distances that 95 and 99 of 100 patches of other renders
    of the prompt stay below.
    """

    patches: Tensor
    usual: float
    rare: float

    @classmethod
    def of(cls, renderer: Renderer, spec: SceneSpec, seed: int = 0) -> Familiar:
        """Renders of a spec, from several seeds and times."""
        chance = torch.Generator().manual_seed(seed)
        count = _KNOWN + _PROBES
        seeds = torch.randint(1 << 31, (count,), generator=chance).tolist()
        starts = (torch.rand(count, generator=chance) * _LATEST_S).tolist()
        clips = renderer.render([spec] * count, seeds, _FRAMES, start_s=starts).cpu()
        known, probes = torch.split(
            describe(clips.flatten(0, 1)), [_KNOWN * _FRAMES, _PROBES * _FRAMES]
        )
        patches = known.transpose(0, 1).flatten(1, 2)
        distances = _distances(probes, patches).flatten()
        usual, rare = torch.quantile(distances, torch.tensor([0.95, 0.99])).tolist()
        return cls(patches, max(usual, _LEAST), max(rare, _LEAST))

    def look(self, frames: NDArray[np.uint8]) -> Foreign:
        """How foreign some frames are, uint8 [T, H, W, 3], of the size of the renders."""
        pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        distances = _distances(describe(pictures), self.patches).flatten()
        return Foreign(
            float(torch.quantile(distances, 0.95)) / self.usual,
            float((distances > self.rare).float().mean()),
        )


def describe(pictures: Tensor) -> Tensor:
    """Pictures, uint8 [N, 3, H, W], as patches: [N, rows, columns, 12], colours 0..255.

    What is left over at the right and below is not looked at.
    """
    quarters = F.avg_pool2d(pictures.float(), _QUARTER_PX)
    rows, columns = (size // 2 for size in quarters.shape[2:])
    whole = quarters[..., : 2 * rows, : 2 * columns]
    cut = whole.reshape(len(pictures), 3, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
    return cut.flatten(3) / 2  # so that a patch's distance is that of the means of its quarters


def _distances(patches: Tensor, known: Tensor) -> Tensor:
    """The distance of each patch [N, rows, columns, D] to the nearest known one at its height.

    known: [rows, n, D].  result: [N, rows, columns].
    """
    rows = patches.shape[1]
    found = []
    for row in range(rows):
        near = known[max(0, row - _REACH) : row + _REACH + 1].flatten(0, 1)
        found.append(torch.cdist(patches[:, row].flatten(0, 1), near).amin(1))
    shape = (rows, patches.shape[0], patches.shape[2])
    return torch.stack(found).view(shape).transpose(0, 1)
