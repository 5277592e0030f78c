"""A stream has no end: block time, memory and values stay as they are after thousands of blocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import count, islice

import psutil
import pytest
import torch
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.rolling import RollingContext
from streamer.models.sampler import FlowMatchTable, block_noise, denoise_block, write_block
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

CONFIG = TransformerConfig(
    width=32,
    num_heads=2,
    ffn_width=48,
    num_layers=2,
    in_channels=4,
    out_channels=4,
    text_width=8,
    text_length=4,
    freq_width=16,
)
SHAPE = (1, 3, 4, 4, 4)
LAYOUT = RingLayout(window=7, sink=1, block=3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stream_blocks(first_frame: int = 0) -> Iterator[tuple[Tensor, float, int]]:
    """Latents, seconds of processor time and bytes of resident memory of block after block."""
    torch.manual_seed(0)
    network = CausalWanTransformer(CONFIG).requires_grad_(False)
    text = network.encode_text(torch.randn(1, 4, CONFIG.text_width))
    context = RollingContext(CONFIG.cache_shape(4, 4), LAYOUT, first_frame=first_frame)
    steps = FlowMatchTable(5.0).steps([1000, 500], warp=True)
    process = psutil.Process()
    for block in count():
        started = time.thread_time()
        latents = denoise_block(
            network, steps, lambda draw, b=block: block_noise(7, b, draw, SHAPE), text, context
        )
        yield latents, time.thread_time() - started, process.memory_info().rss


@pytest.mark.slow
def test_two_thousand_blocks_cost_what_the_first_cost() -> None:
    late = stream_blocks()
    made = [next(late) for _ in range(1900)]
    early = stream_blocks()
    for _ in range(100):
        next(early)
    # By turns, so that a machine which is slower for a while is so for both.
    pairs = [(next(early), next(late)) for _ in range(100)]
    made += [pair[1] for pair in pairs]
    # The fastest quarter of the blocks: other processes only ever make a block slower.
    early_s, late_s = (
        statistics.quantiles([pair[which][1] for pair in pairs], n=4)[0] for which in (0, 1)
    )
    assert late_s <= 1.05 * early_s
    blocks, memory = [block for block, _, _ in made], [size for _, _, size in made]
    # 2,000 blocks of latents are 1.5 MB; a cache that grew would be hundreds.
    assert memory[-1] - memory[200] < 16 * 2**20
    whole = torch.stack(blocks)
    assert torch.isfinite(whole).all()
    # Values neither die nor grow: the last hundred blocks are spread like an early hundred.
    assert whole[-100:].std() == pytest.approx(whole[100:200].std().item(), rel=0.1)


def test_a_stream_at_a_late_position_is_the_same_stream() -> None:
    early = [block for block, _, _ in islice(stream_blocks(), 12)]
    late = [block for block, _, _ in islice(stream_blocks(first_frame=6000), 12)]
    # float32: a far angle is exact to 1e-12, but its cosine is rounded differently.
    torch.testing.assert_close(torch.stack(late), torch.stack(early), rtol=0, atol=5e-5)


def test_a_stream_rebuilt_from_its_latents_goes_on_alike() -> None:
    """With the sinks and the latents of the window, the keys differ only by what fell out of it."""
    torch.manual_seed(0)
    network = CausalWanTransformer(CONFIG).requires_grad_(False)
    text = network.encode_text(torch.randn(1, 4, CONFIG.text_width))
    steps = FlowMatchTable(5.0).steps([1000, 500], warp=True)

    def make(block: int, context: RollingContext) -> Tensor:
        return denoise_block(
            network, steps, lambda draw: block_noise(7, block, draw, SHAPE), text, context
        )

    context = RollingContext(CONFIG.cache_shape(4, 4), LAYOUT)
    blocks = [make(block, context) for block in range(6)]
    expected = make(6, context)
    history = torch.cat(blocks, dim=1)
    rebuilt = RollingContext(CONFIG.cache_shape(4, 4), LAYOUT)
    write_block(network, history[:, :1], text, rebuilt)
    for block in (4, 5):
        write_block(network, blocks[block], text, rebuilt)
    alike, empty = make(6, rebuilt), make(6, RollingContext(CONFIG.cache_shape(4, 4), LAYOUT))
    # Keys of deeper layers remember frames that left the window; that is small beside the window.
    assert (alike - expected).abs().mean() < 0.2 * (empty - expected).abs().mean()
