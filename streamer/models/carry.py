"""Carry: what a token and the past look like, carried over into a prediction at full width.

A token of a small model is hardly wider than its patch, so a patch of the past that is to be seen
again, somewhat further on, has to pass through a residual stream that holds everything else as
well, and comes out blurred.  Here attention picks tokens of the past whose patches themselves are
copied; a product of what was picked and what the network knows moves and mends them.  The token's
own noisy patch goes the same way.  The published models have none.

The copies are values of the cache like any others, so every context serves them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from streamer_kernels import Ops
from torch import Tensor, nn

from streamer.models.attention import attend_rotated
from streamer.models.context import AttentionContext
from streamer.models.rotary import axis_channels

_NEARNESS = 2.3
"""What the fastest pairs of new queries and keys begin with: tokens first look about themselves,"""
_AGO = 2.0
"""but so many latent frames ago, since what surrounds them now is noise."""
_SPREAD = 0.3
"""What new maps to queries and keys are scaled by, beside that."""


class CopyAttention(nn.Module):
    """Self-attention whose values are the patches of the tokens.  layer: its place in the cache."""

    def __init__(self, width: int, num_heads: int, layer: int, eps: float) -> None:
        super().__init__()
        self.num_heads, self.layer, self.eps = num_heads, layer, eps
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.norm_q = nn.RMSNorm(width, eps)
        self.norm_k = nn.RMSNorm(width, eps)

    @torch.no_grad()
    def initialise(self) -> None:
        """Begin with a look at the same place, a little while ago."""
        head_width = self.q.out_features // self.num_heads
        for linear, ago in ((self.q, _AGO), (self.k, 0.0)):
            linear.weight.mul_(_SPREAD)
            bias = torch.zeros(self.num_heads, head_width)
            first = 0
            for axis, channels in enumerate(axis_channels(head_width)):
                # The pair that turns fastest, by one radian a step.
                angle = math.pi / 4 - (ago if axis == 0 else 0.0)
                bias[:, first] = _NEARNESS * math.cos(angle)
                bias[:, first + 1] = _NEARNESS * math.sin(angle)
                first += channels
            linear.bias.copy_(bias.flatten())

    def forward(
        self, ops: Ops, x: Tensor, patches: Tensor, table: Tensor, context: AttentionContext
    ) -> Tensor:
        """x: [B, N, E].  patches, result: [B, N, P], P <= E.  table: [N, D/2, 2]."""
        norms = self.norm_q.weight, self.norm_k.weight
        q, k, size = self.q(x), self.k(x), patches.shape[2]
        v = F.pad(patches.to(k.dtype), (0, k.shape[2] - size))
        seen = attend_rotated(ops, context, self.layer, q, k, v, norms, table, self.eps)
        return seen.flatten(2)[..., :size]


class Carry(nn.Module):
    """What is added to the clean patches that the head tells.

    patch: numbers of a patch, at most the width.  copies: how many tokens of the past each token
    may take.  first_layer: of the cache, for them.  ops: the operations to compute with.
    """

    def __init__(
        self,
        width: int,
        patch: int,
        num_heads: int,
        copies: int,
        first_layer: int,
        eps: float,
        ops: Ops,
    ) -> None:
        super().__init__()
        self.ops, self.eps = ops, eps
        self.copies = nn.ModuleList(
            CopyAttention(width, num_heads, first_layer + i, eps) for i in range(copies)
        )
        self.modulation = nn.Parameter(torch.zeros(1, 2, width))
        self.shares = nn.Linear(width, copies + 1)
        self.seen = nn.Linear((copies + 1) * patch, 4 * width)
        self.moves = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, patch)

    @torch.no_grad()
    def initialise(self) -> None:
        """Begin without effect."""
        for copy in self.copies:
            cast(CopyAttention, copy).initialise()
        for linear in (self.shares, self.out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, patches: Tensor, time: Tensor, table: Tensor, context: AttentionContext
    ) -> Tensor:
        """x: the residual stream after all layers, [B, N, E].  patches, result: [B, N, P].

        time: [B, G, E], before the projection to six vectors.  table: [N, D/2, 2].
        """
        shift, scale = (self.modulation + time.unsqueeze(2)).unbind(2)
        x = self.ops.modulate(x, shift, scale, self.eps)
        parts = [patches.to(x.dtype)]
        parts += [copy(self.ops, x, patches, table, context) for copy in self.copies]
        shares = self.shares(x).unsqueeze(-1)
        kept: Tensor = (torch.stack(parts, dim=2) * shares).sum(dim=2)
        moved: Tensor = self.out(self.seen(torch.cat(parts, dim=-1)) * self.moves(x))
        return kept + moved


def grow_carry(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a transformer with fewer copies, or without a carry, made to fit one with more.

    wanted: the new transformer's own, by name; its further copies stay as they are there, and
    begin without effect.
    """
    grown = dict(tensors)
    has_carry = any(name.startswith("carry.") for name in tensors)
    for name, own in wanted.items():
        read = tensors.get(name)
        if read is None:
            if name.startswith("carry.copies." if has_carry else "carry."):
                grown[name] = own
        elif name.startswith(("carry.shares.", "carry.seen.")) and read.ndim == own.ndim:
            room = [new - old for old, new in zip(read.shape, own.shape, strict=True)]
            if min(room) >= 0:
                grown[name] = F.pad(read, [n for more in reversed(room) for n in (0, more)])
    return grown
