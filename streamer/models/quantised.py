"""Linear maps in eight-bit numbers: half the bytes, and on new GPUs twice the products a second.

Weights get one scale an output, inputs one scale a token, found anew in every pass.  The first and
the last layer, and everything outside the layers, stay as they are.  Whether a model bears it is
not to be believed but measured: see `streamer.engine.quality`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from streamer_kernels import Ops
from streamer_kernels.quantise import Kind, scaled_linear, scaled_linear_library
from torch import Tensor, nn

from streamer.models.transformer import Block, CausalWanTransformer

SKIPPED_LAYERS = 1
"""How many of the first and of the last layers stay as they are."""
PARTS = ("self_attn.o", "cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2")
"""The maps of a layer that are replaced, besides queries, keys and values of self-attention."""
BEHIND_GELU = "ffn.2"


class EightBitLinear(nn.Module):
    """A linear map whose weight is held in eight bits and whose input is rounded to them.

    codes: [O, E].  scales: float32 [O].  bias: [O].
    takes_gelu: whether the map is of the GELU of its input, taken while that is rounded.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(
        self, maps: Iterable[nn.Linear], kind: Kind, ops: Ops, *, takes_gelu: bool = False
    ) -> None:
        """Of one map, or of several with the same input, whose results then lie side by side."""
        super().__init__()
        self.kind = kind
        self._quantise = ops.gelu_quantise_rows if takes_gelu else ops.quantise_rows
        maps = list(maps)
        codes, scales = ops.quantise_rows(torch.cat([each.weight for each in maps]), kind)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        biases: list[Tensor] = [each.bias for each in maps if each.bias is not None]
        self.register_buffer("bias", torch.cat(biases) if biases else None)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., E].  result: [..., O] of the type of x."""
        product = scaled_linear_library if x.is_cuda else scaled_linear
        codes, scales = self._quantise(x.flatten(0, -2), self.kind)
        out: Tensor = product(codes, scales, self.codes, self.scales, self.bias, x.dtype)
        return torch.unflatten(out, 0, x.shape[:-1])


@torch.no_grad()
def quantise(transformer: CausalWanTransformer, kind: Kind, ops: Ops) -> int:
    """Put eight-bit maps in the place of the layers' own, for inference; how many.

    Queries, keys and values become one product.  Maps of text, whose keys and values are made once
    a prompt, are left alone.
    """
    blocks = list(cast(Iterable[Block], transformer.blocks))
    count = 0
    for block in blocks[SKIPPED_LAYERS : len(blocks) - SKIPPED_LAYERS]:
        attention = block.self_attn
        attention.joined = EightBitLinear((attention.q, attention.k, attention.v), kind, ops)
        for part in ("q", "k", "v"):
            setattr(attention, part, nn.Identity())  # its weights are in the joined map
        for name in PARTS:
            linear = cast(nn.Linear, block.get_submodule(name))
            parent, _, last = name.rpartition(".")
            eighth = EightBitLinear([linear], kind, ops, takes_gelu=name == BEHIND_GELU)
            setattr(block.get_submodule(parent), last, eighth)
        block.ffn[1] = nn.Identity()  # the map behind it takes the GELU
        count += 3 + len(PARTS)
    return count


def psnr_db(picture: Tensor, wanted: Tensor) -> float:
    """Peak signal to noise of pictures in 0..1, in decibels; infinite for equal ones."""
    error = float((picture.double() - wanted.double()).square().mean())
    if not math.isfinite(error):
        return -math.inf
    return math.inf if error == 0.0 else -10.0 * math.log10(error)
