"""Published sizes on this machine, with random weights: `python -m tests.full_size`.

1.3B: written as Self-Forcing publishes it (under `generator_ema`, behind `model.`), loaded in
bfloat16, and one block of a small picture made on the CPU.  14B: one layer of it, written as
LightX2V publishes it, loaded with the peak of memory beside the model measured; the peak of all
forty layers follows, since tensors are read one at a time.  Needs 12 GB of disk and memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from streamer.config import load_config
from streamer.models.cache import RingLayout
from streamer.models.checkpoints import load_checkpoint
from streamer.models.guidance import FlowModel
from streamer.models.needs import needs, transformer_parameters
from streamer.models.rolling import RollingContext
from streamer.models.sampler import FlowMatchTable, block_noise, denoise_block
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

MIB = 1 << 20


@dataclass
class Peak:
    """Anonymous memory of this process, bytes: at the start, and at the most since then."""

    start: int
    most: int


@contextmanager
def watched(every_s: float = 0.002) -> Iterator[Peak]:
    """Sample the process's own memory; mapped files do not count, the kernel drops them."""
    peak = Peak(anonymous(), anonymous())
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every_s):
            peak.most = max(peak.most, anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def anonymous() -> int:
    """RssAnon of this process (Linux), bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def write(config: TransformerConfig, path: Path, is_nested: bool) -> None:
    """Random weights of a network, small enough that nothing overflows, as bfloat16."""
    with torch.device("meta"):
        model = CausalWanTransformer(config)
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, tensor in model.state_dict().items():
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
        if name.endswith(("norm_q.weight", "norm_k.weight")):
            values = torch.ones(tensor.shape)
        state[name] = (values * (0.7 / fan_in**0.5 if tensor.ndim > 1 else 0.1)).bfloat16()
    tree = {"generator_ema": {f"model.{k}": t for k, t in state.items()}} if is_nested else state
    torch.save(tree, path)


def load(config: TransformerConfig, path: Path) -> CausalWanTransformer:
    """Load and print the peak."""
    with torch.device("meta"):
        model = CausalWanTransformer(config)
    largest = max(tensor.numel() for tensor in model.state_dict().values()) * 2
    started = time.perf_counter()
    with watched() as peak:
        found = load_checkpoint(model, "transformer", [path], dtype=torch.bfloat16)
    size = sum(tensor.numel() * 2 for tensor in model.state_dict().values())
    print(
        f"{found.title}: {size / MIB:,.0f} MiB loaded in {time.perf_counter() - started:.0f} s; "
        f"memory rose by {(peak.most - peak.start) / MIB:,.0f} MiB at the most, that is "
        f"{(peak.most - peak.start - size) / MIB:,.0f} MiB beside the model; its largest tensor "
        f"has {largest / MIB:,.0f} MiB"
    )
    return model


@torch.inference_mode()
def one_block(model: CausalWanTransformer, side: int) -> None:
    """One block of three latent frames in four steps, as Self-Forcing makes it."""
    flow = FlowModel(model)
    latent = side // 8
    layout = RingLayout(21, 3, 3)
    context = RollingContext(model.config.cache_shape(latent, latent), layout, dtype=torch.bfloat16)
    steps = FlowMatchTable(5.0).steps([1000, 750, 500, 250], warp=True)
    text = flow.encode_text(torch.randn(1, 20, 4096))
    shape = (1, 3, 16, latent, latent)
    started = time.perf_counter()
    with watched() as peak:
        made = denoise_block(
            flow, steps, lambda draw: block_noise(0, 0, draw, shape), text, context
        )
    assert made.isfinite().all()
    print(
        f"one block of {side}x{side}: {time.perf_counter() - started:.0f} s, "
        f"{(peak.most - peak.start) / MIB:,.0f} MiB beside weights and window, "
        f"{peak.most / MIB:,.0f} MiB in all, standard deviation {made.std():.2f}"
    )


def load_1_3b(path: Path, side: int) -> None:
    """The 1.3B: load it, and make one block."""
    one_block(load(TransformerConfig.wan_1_3b(), path), side)


def load_14b(path: Path, num_layers: int) -> None:
    """Some layers of the 14B: load them."""
    load(replace(TransformerConfig.wan_14b(), num_layers=num_layers), path)


def alone(work: Callable[..., None], *arguments: object) -> None:
    """Run in a process of its own, whose memory nobody used before."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0, f"{work.__name__} failed"


def main() -> None:
    """Run both and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128, help="pixels of the small picture")
    parser.add_argument("--layers", type=int, default=1, help="layers of the 14B to load")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "self_forcing_dmd.pt"
        alone(write, TransformerConfig.wan_1_3b(), path, True)
        alone(load_1_3b, path, options.side)
        path.unlink()
        path = Path(place) / "causal_model.pt"
        alone(write, replace(TransformerConfig.wan_14b(), num_layers=options.layers), path, False)
        alone(load_14b, path, options.layers)
    config = load_config("wan2.1-t2v-14b-causvid")
    assert config.model is not None
    whole = transformer_parameters(config.model.transformer) * 2
    largest = needs(config).largest_tensor
    print(
        f"all 40 layers of the 14B: {whole / MIB:,.0f} MiB and {largest / MIB:,.0f} MiB for the "
        f"largest tensor, {(whole + largest) / MIB:,.0f} MiB at the peak of loading (computed)"
    )


if __name__ == "__main__":
    main()
