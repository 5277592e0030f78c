"""Several linear maps of the same input as one product, for inference.

One large product fills a GPU's processors better than three small ones, and is launched once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def join(maps: Sequence[nn.Linear]) -> Callable[[Tensor], Tensor]:
    """A map [..., E] -> [..., sum of O] that gives the results of all maps side by side.

    The maps' own weights become views of the joined ones: they keep their names, are not held
    twice, and still work by themselves.  Moving the maps to another device or type afterwards
    parts them from it.
    """
    weight = torch.cat([each.weight for each in maps])
    bias = torch.cat([each.bias for each in maps])
    sizes = [each.out_features for each in maps]
    parts = zip(maps, torch.split(weight, sizes), torch.split(bias, sizes), strict=True)
    for each, rows, numbers in parts:
        each.weight = nn.Parameter(rows, requires_grad=False)
        each.bias = nn.Parameter(numbers, requires_grad=False)

    def joined(x: Tensor) -> Tensor:
        return F.linear(x, weight, bias)

    return joined
