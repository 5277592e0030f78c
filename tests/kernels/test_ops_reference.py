"""The references of the operations against arithmetic written out another way."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from streamer_kernels import load_ops
from streamer_kernels.attend import attend
from streamer_kernels.gate_add import gate_add
from streamer_kernels.modulate import modulate
from streamer_kernels.qk_norm_rope import qk_norm_rope, rotate
from torch import Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def attend_by_loops(
    q: Tensor, q_sink: Tensor, k: Tensor, v: Tensor, num_valid: int, num_sink: int
) -> Tensor:
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for n in range(q.shape[1]):
            for a in range(q.shape[2]):
                scores = [
                    (q_sink if s < num_sink else q)[b, n, a] @ k[b, s, a] / math.sqrt(q.shape[-1])
                    for s in range(num_valid)
                ]
                weights = torch.stack(scores).exp()
                out[b, n, a] = (weights / weights.sum()) @ v[b, :num_valid, a]
    return out


@pytest.mark.parametrize("is_differentiated", [False, True])
@pytest.mark.parametrize(("num_valid", "num_sink"), [(9, 0), (9, 2), (6, 3), (1, 1), (4, 4)])
def test_attend_reads_the_valid_slots_and_sinks_with_their_own_query(
    num_valid: int, num_sink: int, is_differentiated: bool
) -> None:
    q, q_sink = draw(2, 3, 2, 8, seed=1), draw(2, 3, 2, 8, seed=2)
    k, v = draw(2, 9, 2, 8, seed=3), draw(2, 9, 2, 8, seed=4)
    expected = attend_by_loops(q, q_sink, k, v, num_valid, num_sink)
    k[:, num_valid:], v[:, num_valid:] = torch.nan, torch.nan
    q.requires_grad_(is_differentiated)
    out = attend(q, k, v, num_valid, q_sink, num_sink)
    torch.testing.assert_close(out.detach(), expected, rtol=0, atol=1e-12)
    if num_sink == 0:
        torch.testing.assert_close(
            attend(q, k, v, num_valid).detach(), expected, rtol=0, atol=1e-12
        )


def test_attend_differentiates_both_queries() -> None:
    inputs = [draw(1, 2, 1, 4, seed=seed).requires_grad_() for seed in range(2)]
    inputs += [draw(1, 5, 1, 4, seed=seed).requires_grad_() for seed in range(2, 4)]
    assert torch.autograd.gradcheck(lambda q, s, k, v: attend(q, k, v, 4, s, 2), inputs)


def test_attend_accepts_ring_slices_of_any_stride() -> None:
    ring = draw(3, 2, 12, 2, 8)
    q = draw(2, 2, 4, 8, seed=1).transpose(1, 2)
    assert torch.equal(attend(q, ring[0], ring[1], 7), attend(q.contiguous(), ring[0], ring[1], 7))


@pytest.mark.parametrize(("num_valid", "num_sink"), [(0, 0), (10, 0), (5, 6)])
def test_attend_refuses_lengths_that_do_not_fit(num_valid: int, num_sink: int) -> None:
    q, k = draw(1, 2, 1, 4), draw(1, 9, 1, 4)
    with pytest.raises(ValueError, match="slots"):
        attend(q, k, k, num_valid, q, num_sink)


def test_rotate_turns_neighbouring_channels() -> None:
    x = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    x[..., 2] = 1.0
    angle = torch.tensor([0.3, 1.1], dtype=torch.float64)
    table = torch.stack([angle.cos(), angle.sin()], dim=-1)[None]
    expected = torch.tensor([0.0, 0.0, math.cos(1.1), math.sin(1.1)], dtype=torch.float64)
    torch.testing.assert_close(rotate(x, table).flatten(), expected)


def test_rotate_keeps_sixteen_bit_types() -> None:
    x = draw(1, 2, 1, 8).to(torch.bfloat16)
    angle = torch.rand(2, 4)
    out = rotate(x, torch.stack([angle.cos(), angle.sin()], dim=-1))
    assert out.dtype == torch.bfloat16
    # A rotation keeps the length; eight bits of mantissa.
    assert out.float().norm().item() == pytest.approx(x.float().norm().item(), rel=1e-2)


def test_qk_norm_rope_normalises_over_all_heads_together() -> None:
    q, k = draw(2, 3, 12, seed=1), draw(2, 3, 12, seed=2)
    weights = draw(12, seed=3), draw(12, seed=4)
    angle = draw(3, 3, seed=5)
    table = torch.stack([angle.cos(), angle.sin()], dim=-1)
    outs = qk_norm_rope(q, k, *weights, table, 1e-6)
    for x, weight, out in zip((q, k), weights, outs, strict=True):
        normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
        torch.testing.assert_close(out, rotate(normed.reshape(2, 3, 2, 6), table))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_modulate_and_gate_share_vectors_between_the_tokens_of_a_frame(groups: int) -> None:
    x, branch = draw(2, 6, 8, seed=1), draw(2, 6, 8, seed=2)
    shift, scale = draw(2, groups, 8, seed=3), draw(2, groups, 8, seed=4)
    out, gated = modulate(x, shift, scale, 1e-6), gate_add(x, branch, shift)
    for n in range(6):
        group = n * groups // 6
        token = x[:, n]
        centred = token - token.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        expected = normed * (1 + scale[:, group]) + shift[:, group]
        torch.testing.assert_close(out[:, n], expected)
        torch.testing.assert_close(gated[:, n], token + branch[:, n] * shift[:, group])


def test_ops_are_frozen_and_backends_are_known_by_name() -> None:
    ops = load_ops("torch")
    assert ops.attend is attend
    with pytest.raises(dataclasses.FrozenInstanceError):
        ops.attend = attend
    with pytest.raises(ValueError, match="expected 'torch', 'triton' or 'compile'"):
        load_ops("cuda")
