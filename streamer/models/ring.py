"""Ring: the keys and values of all layers of a stream, at fixed addresses, as numbers or as codes.

It knows no time: which slot belongs to which frame is the business of `RingLayout` and the context.
Codes are eight bits with one scale for each head of each slot, found when a key is written; a ring
of them takes half of a sixteen-bit one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from streamer_kernels.quantise import TYPES, Kind, RingScales, dequantise_ring, write_codes
from torch import Tensor


@dataclass(frozen=True)
class CacheShape:
    """The sizes of a cache besides its number of frames.

    rows, columns: tokens of one latent frame.
    """

    num_layers: int
    batch: int
    rows: int
    columns: int
    num_heads: int
    head_width: int

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame."""
        return self.rows * self.columns


class Ring:
    """Owner: one context, as long as it lives.  Written in place; nothing ever moves.

    k, v: [L, B, S, A, D] of dtype, or of int8 or fp8.  k_scales, v_scales: float32 [L, B, A, S]
    with codes, else empty.
    """

    def __init__(
        self,
        shape: CacheShape,
        num_frames: int,
        device: torch.device | str,
        dtype: torch.dtype,
        kind: Kind | None = None,
    ) -> None:
        self.dtype, self.kind = dtype, kind
        self._tokens = shape.tokens_per_frame
        num_slots = num_frames * self._tokens
        outer, heads = (shape.num_layers, shape.batch), (shape.num_heads, shape.head_width)
        held = dtype if kind is None else TYPES[kind]
        self.k, self.v = (
            torch.zeros((*outer, num_slots, *heads), device=device, dtype=held) for _ in range(2)
        )
        scaled = 0 if kind is None else num_slots
        self.k_scales, self.v_scales = (
            torch.zeros((*outer, shape.num_heads, scaled), device=device) for _ in range(2)
        )

    @property
    def num_slots(self) -> int:
        """How many tokens it holds."""
        return self.k.shape[2]

    @property
    def num_bytes(self) -> int:
        """What it takes of the device."""
        return sum(each.nbytes for each in (self.k, self.v, self.k_scales, self.v_scales))

    def scales(self, layer: int) -> RingScales | None:
        """What the codes of a layer are multiplied with; None where it holds numbers."""
        if self.kind is None:
            return None
        return RingScales(self.k_scales[layer], self.v_scales[layer])

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Put keys and values [B, N, A, D] into slots, int64 [N] on the device."""
        for ring, scales, new in zip(
            (self.k[layer], self.v[layer]),
            self.scales(layer) or (None, None),
            (k, v),
            strict=True,
        ):
            if scales is None:
                ring.index_copy_(1, slots, new)
            else:
                write_codes(ring, scales, slots, new)

    def frames(self, layer: int, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values at these places, counted in frames: [B, N, A, D]."""
        k, v, scales = self.k[layer], self.v[layer], self.scales(layer)
        if scales is not None:
            k, v = dequantise_ring(k, v, scales, self.num_slots, self.dtype)
        k, v = (
            torch.unflatten(ring, 1, (-1, self._tokens))[:, list(frames)].flatten(1, 2)
            for ring in (k, v)
        )
        return k, v
