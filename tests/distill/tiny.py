"""Sizes, texts and clips for the tests of the stages: everything tiny, nothing trained."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from streamer.distill.blueprint import Blueprint
from streamer.distill.shards import LatentClips
from streamer.models.cache import RingLayout
from streamer.models.sampler import FlowMatchTable
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

SIZES = TransformerConfig(
    width=32,
    num_heads=2,
    ffn_width=64,
    num_layers=2,
    in_channels=4,
    out_channels=4,
    text_width=6,
    text_length=3,
    freq_width=16,
)
LAYOUT = RingLayout(6, 0, 2)
STEPS = FlowMatchTable(1.0).steps([1000, 600, 300], warp=False)
SHAPE = (4, 4, 4)


def blueprint(layout: RingLayout = LAYOUT) -> Blueprint:
    return Blueprint("tiny", SIZES, layout, STEPS, 0.0, ("a dog",))


def network(seed: int = 0, sizes: TransformerConfig = SIZES) -> CausalWanTransformer:
    """A network whose every part matters, unlike one that has just been initialised."""
    torch.manual_seed(seed)
    made = CausalWanTransformer(sizes)
    made.initialise()
    nn.init.normal_(made.head.head.weight, std=0.1)
    return made


def clips(count: int = 8, num_frames: int = 6) -> LatentClips:
    generator = torch.Generator().manual_seed(0)
    return LatentClips(
        torch.randn(count, num_frames, *SHAPE, generator=generator).half(),
        torch.randn(count, 2, 3, 6, generator=generator).half(),
        torch.tensor([0, 0, 1, 2] * count)[:count],
        torch.tensor([True, False, True, True] * count)[:count],
    )


def write_clips(folder: Path, num_frames: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("held-out", "clips-00000"):
        save_file(dict(vars(clips(num_frames=num_frames))), folder / f"{name}.safetensors")
    return folder


class Texts:
    """Encodes a text as numbers that depend on nothing but its letters."""

    text_length, text_width = 3, 6

    def encode(self, texts: list[str]) -> Tensor:
        rows = [torch.Generator().manual_seed(sum(map(ord, text))) for text in texts]
        return torch.stack([torch.randn(3, 6, generator=row) for row in rows])
