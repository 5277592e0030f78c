"""What is carried over: copies of patches of the past, at full width."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from streamer_kernels import load_ops

from streamer.errors import WeightsError
from streamer.models.cache import RingLayout
from streamer.models.carry import Carry, grow_carry
from streamer.models.checkpoint import load_weights, save_weights
from streamer.models.context import BlockCausalContext
from streamer.models.rotary import token_table
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

SIZES = TransformerConfig(
    width=24,
    num_heads=2,
    ffn_width=32,
    num_layers=1,
    in_channels=4,
    out_channels=4,
    text_width=6,
    text_length=3,
    freq_width=16,
    predicts_clean=True,
    carries=2,
)
TEXT = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(1))


def new_network(sizes: TransformerConfig) -> CausalWanTransformer:
    torch.manual_seed(0)
    network = CausalWanTransformer(sizes)
    network.initialise()
    return network


def test_a_new_one_changes_nothing():
    carrying, plain = new_network(SIZES), new_network(replace(SIZES, carries=0))
    torch.nn.init.normal_(carrying.head.head.weight)
    weights = carrying.state_dict()
    plain.load_state_dict({n: w for n, w in weights.items() if not n.startswith("carry.")})
    latents, sigma = torch.randn(1, 6, 4, 4, 6), torch.tensor([[0.3, 1.0]])
    flows = []
    for network in (carrying, plain):
        context = BlockCausalContext([3, 3], RingLayout(6))
        with torch.no_grad():
            flows.append(network(latents, 1000 * sigma, network.encode_text(TEXT), context))
    torch.testing.assert_close(*flows, rtol=0, atol=0)


def flow_of(network: CausalWanTransformer) -> torch.Tensor:
    chance = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 6, 4, 4, 6, generator=chance)
    context = BlockCausalContext([3, 3], RingLayout(6))
    return network(latents, torch.tensor([[300.0, 1000.0]]), network.encode_text(TEXT), context)


@pytest.mark.parametrize("carries", [0, 1])
def test_further_copies_begin_without_effect(carries: int, tmp_path: Path):
    small = new_network(replace(SIZES, carries=carries))
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path / "weights.safetensors"
    save_weights(small.state_dict(), path, "float32")
    grown = new_network(replace(SIZES, carries=3))
    with pytest.raises(WeightsError):
        load_weights(grown, [path])
    load_weights(grown, [path], grow_carry)
    torch.testing.assert_close(flow_of(grown), flow_of(small))
    torch.autograd.backward(flow_of(grown).square().sum())
    learned = grown.carry.shares.weight.grad
    assert learned is not None
    assert learned[-1].abs().max() > 0


def test_weights_that_lack_half_of_a_carry_are_damaged(tmp_path: Path):
    weights = new_network(SIZES).state_dict()
    path = tmp_path / "weights.safetensors"
    save_weights({n: w for n, w in weights.items() if n != "carry.out.weight"}, path)
    with pytest.raises(WeightsError, match=r"carry\.out\.weight is missing"):
        load_weights(new_network(replace(SIZES, carries=3)), [path], grow_carry)


def new_carry() -> Carry:
    torch.manual_seed(0)
    carry = Carry(24, 16, 2, copies=1, first_layer=0, eps=1e-6, ops=load_ops("torch"))
    carry.initialise()
    return carry.requires_grad_(False)


def test_a_copy_is_a_patch_of_the_past_and_nothing_else():
    """Queries that find one key copy its patch to the last digit, whatever the width holds."""
    carry, context = new_carry(), BlockCausalContext([1, 1], RingLayout(2, block=1))
    tokens, rows, columns = 12, 2, 3
    x = torch.randn(1, tokens, 24)
    patches = torch.randn(1, tokens, 16)
    context.rotary(2, rows, columns, x.new_zeros(1, 1, 2, 12))
    copy = carry.copies[0]
    for linear in (copy.q, copy.k):
        linear.weight.zero_()
        linear.bias.fill_(1)
    copy.norm_q.weight.fill_(50)
    nowhere = torch.zeros(tokens, 6, 2)  # every key is turned alike ...
    nowhere[..., 0] = 1
    nowhere[4, :, 0] = 2  # ... but this one of the first frame, which is found by all
    seen = copy(load_ops("torch"), x, patches, nowhere, context)
    torch.testing.assert_close(seen[:, 6:], patches[:, 4:5].expand(-1, 6, -1))


def test_a_new_copy_looks_at_the_same_place_a_while_ago():
    carry, context = new_carry(), BlockCausalContext([2, 1], RingLayout(3, block=1))
    rows, columns = 4, 4
    table = token_table(range(3), rows, columns, 12).float()
    context.rotary(3, rows, columns, torch.zeros(1, 1, 2, 12))
    for frame, is_far in ((0, False), (2, True)):
        spots = torch.zeros(1, 48, 16)  # of this frame each token has a mark of its own
        spots[0, 16 * frame : 16 * (frame + 1)] = torch.eye(16)
        marks = carry.copies[0](load_ops("torch"), torch.randn(1, 48, 24), spots, table, context)
        shares = marks[0, 32:].reshape(rows, columns, rows, columns)
        here = torch.einsum("rcrc->rc", shares)
        assert float(here.min()) > 2 * float(
            torch.stack([shares[0, 0, 3, 3], shares[3, 3, 0, 0]]).max()
        )
        seen = shares.sum((2, 3)).mean()
        assert (float(seen) < 1 / 3) == is_far  # what is there now is noise


def test_a_moving_picture_is_learned_sooner_with_it():
    """Pictures of random patches that all move by one token a frame: nothing but copies helps."""
    losses = {}
    for carries in (0, 1):
        network = new_network(replace(SIZES, carries=carries))
        optimiser = torch.optim.Adam(network.parameters(), lr=4e-3)
        generator, total = torch.Generator().manual_seed(3), []
        for _ in range(120):
            first = torch.randn(8, 1, 4, 4, 12, generator=generator)
            clip = torch.cat([torch.roll(first, 2 * i, dims=4) for i in range(3)], dim=1)
            noise = torch.randn(clip.shape, generator=generator)
            context = BlockCausalContext([1, 1, 1], RingLayout(3, block=1), teacher_forcing=True)
            told = torch.tensor([[0.0] * 3 + [1000.0] * 3]).expand(8, -1)
            text = network.encode_text(TEXT.expand(8, -1, -1))
            flow = network(torch.cat([clip, noise], dim=1), told, text, context)
            clean = (noise - flow[:, 3:])[:, 1:]
            loss = (clean - clip[:, 1:]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total.append(loss.item())
        losses[carries] = sum(total[-10:]) / 10
    assert losses[1] < 0.5 * losses[0]


def test_patches_wider_than_tokens_are_refused():
    with pytest.raises(ValueError, match="at least 16"):
        replace(SIZES, width=8, num_heads=1)
    with pytest.raises(ValueError, match="predicts_clean"):
        replace(SIZES, predicts_clean=False)
