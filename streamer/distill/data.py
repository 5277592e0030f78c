"""Prompt-video pairs as shards: clean latents of rendered clips and the text that goes with them.

A shard holds clips of a fixed length.  Some clips change their prompt on the way: the renderer
morphs, and from `switch` on the second text holds.  Some show how a world begins, some a piece from
its middle.  Shards are made once and read whole.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from streamer.distill.captions import sample_pair
from streamer.distill.shards import LatentClips
from streamer.distill.world import Renderer
from streamer.models.text import TextEncoder
from streamer.models.tiny_vae import TinyVAE

LATENTS_PER_SHARD = 288
SWITCHED_SHARE = 0.35
"""Share of clips whose prompt changes on the way."""
BEGINNING_SHARE = 0.5
"""Share of clips that show their world from its first second."""
LATEST_START_S = 60.0
"""The others start at a random time of their world, up to here."""


def render_pairs(
    renderer: Renderer,
    count: int,
    num_frames: int,
    frames_per_block: int,
    seed: int,
    held_out: bool = False,
) -> tuple[Tensor, list[tuple[str, str]], Tensor, Tensor]:
    """Clips, their texts before and after, the block of the change (0: none), which are beginnings.

    Clips of one block are all beginnings.
    results: uint8 [B, T, 3, H, W]; B pairs of texts, equal where nothing changes; int64 [B]; bool
    [B].
    """
    chance = random.Random(seed)
    pairs = [sample_pair(renderer.edition, chance, held_out) for _ in range(count)]
    later = [sample_pair(renderer.edition, chance, held_out) for _ in range(count)]
    num_blocks = num_frames // frames_per_block
    switch = torch.tensor(
        [
            chance.randrange(1, num_blocks)
            if num_blocks > 1 and chance.random() < SWITCHED_SHARE
            else 0
            for _ in range(count)
        ]
    )
    begins = [num_blocks == 1 or chance.random() < BEGINNING_SHARE for _ in range(count)]
    starts = [0.0 if begin else chance.uniform(0, LATEST_START_S) for begin in begins]
    block_s = frames_per_block / renderer.fps
    seeds = [chance.randrange(1 << 31) for _ in range(count)]
    changing = [i for i in range(count) if switch[i] > 0]
    steady = [i for i in range(count) if switch[i] == 0]
    frames = torch.empty(count, num_frames, 3, renderer.height, renderer.width, dtype=torch.uint8)
    if steady:
        frames[steady] = renderer.render(
            [pairs[i][0] for i in steady],
            [seeds[i] for i in steady],
            num_frames,
            start_s=[starts[i] for i in steady],
        ).cpu()
    if changing:
        frames[changing] = renderer.render(
            [pairs[i][0] for i in changing],
            [seeds[i] for i in changing],
            num_frames,
            start_s=[starts[i] for i in changing],
            switch_to=[later[i][0] for i in changing],
            switch_s=[starts[i] + float(switch[i]) * block_s for i in changing],
        ).cpu()
    texts = [
        (pairs[i][1].text, (later if switch[i] > 0 else pairs)[i][1].text) for i in range(count)
    ]
    return frames, texts, switch, torch.tensor(begins)


@torch.no_grad()
def make_clips(
    renderer: Renderer,
    vae: TinyVAE,
    encoder: TextEncoder,
    count: int,
    num_latents: int,
    block: int,
    seed: int,
    held_out: bool = False,
) -> LatentClips:
    """Render pairs and encode both sides."""
    reduction = vae.config.temporal_reduction
    frames, texts, switch, begins = render_pairs(
        renderer, count, num_latents * reduction, block * reduction, seed, held_out
    )
    device = vae.latent_mean.device
    latents = [
        vae.encode(clips.to(device).float() / 255)[0].cpu() for clips in torch.split(frames, 4)
    ]
    flat = encoder.encode([text for pair in texts for text in pair])
    return LatentClips(
        torch.cat(latents).half(),
        flat.reshape(count, 2, *flat.shape[1:]).cpu().half(),
        switch,
        begins,
    )


def build_shards(
    out: Path,
    renderer: Renderer,
    vae: TinyVAE,
    encoder: TextEncoder,
    *,
    num_shards: int,
    num_latents: int = 9,
    block: int = 3,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write shards of LATENTS_PER_SHARD latent frames; shards that are there already are kept.

    The shard `held-out` holds combinations that training never sees.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = ["held-out", *(f"clips-{index:05d}" for index in range(num_shards))]
    for index, name in enumerate(names):
        path = out / f"{name}.safetensors"
        if not path.exists():
            clips = make_clips(
                renderer,
                vae,
                encoder,
                LATENTS_PER_SHARD // num_latents,
                num_latents,
                block,
                seed=(seed << 32) + index,
                held_out=index == 0,
            )
            partial = path.with_suffix(".partial")
            save_file(dict(vars(clips)), partial)
            partial.rename(path)
        on_progress(index + 1)
