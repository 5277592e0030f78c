"""Prompt-video pairs as shards: clean latents of rendered clips and the text that goes with them.

A shard holds clips of a fixed length.  Some clips change their prompt on the way: the renderer
morphs, and from `switch` on the second text holds.  Some show how a world begins, some a piece from
its middle, some both.  Shards are made once and read whole.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from streamer.distill.captions import sample_pair
from streamer.distill.replacing import replacing
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


@dataclass(frozen=True)
class RenderedPairs:
    """Clips as they were rendered.

    frames: uint8 [B, T, 3, H, W], on the renderer's device.  texts: B, before and after the change;
    equal where nothing changes.  switch, begins, leaps: [B], as in LatentClips.
    """

    frames: Tensor
    texts: list[tuple[str, str]]
    switch: Tensor
    begins: Tensor
    leaps: Tensor


def render_pairs(
    renderer: Renderer,
    count: int,
    num_frames: int,
    frames_per_block: int,
    seed: int,
    held_out: bool = False,
    leap_share: float = 0.0,
) -> RenderedPairs:
    """Clips and their texts.  Clips of one block are all beginnings.

    leap_share: of the clips from the middle of an unchanging world, how many begin with its first
    block all the same and leap from there; their second block teaches nothing.
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
    shape = (count, num_frames, 3, renderer.height, renderer.width)
    frames = torch.empty(shape, dtype=torch.uint8, device=renderer.device)
    if steady:
        frames[steady] = renderer.render(
            [pairs[i][0] for i in steady],
            [seeds[i] for i in steady],
            num_frames,
            start_s=[starts[i] for i in steady],
        )
    if changing:
        frames[changing] = renderer.render(
            [pairs[i][0] for i in changing],
            [seeds[i] for i in changing],
            num_frames,
            start_s=[starts[i] for i in changing],
            switch_to=[later[i][0] for i in changing],
            switch_s=[starts[i] + float(switch[i]) * block_s for i in changing],
        )
    leaping = [i for i in steady if not begins[i] and leap_share and chance.random() < leap_share]
    if leaping:
        frames[leaping, :frames_per_block] = renderer.render(
            [pairs[i][0] for i in leaping], [seeds[i] for i in leaping], frames_per_block
        )
    texts = [
        (pairs[i][1].text, (later if switch[i] > 0 else pairs)[i][1].text) for i in range(count)
    ]
    leaps = torch.zeros(count, dtype=torch.bool)
    leaps[leaping] = True
    return RenderedPairs(frames, texts, switch, torch.tensor(begins) | leaps, leaps)


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
    leap_share: float = 0.0,
) -> LatentClips:
    """Render pairs and encode both sides; see render_pairs."""
    reduction = vae.config.temporal_reduction
    made = render_pairs(
        renderer, count, num_latents * reduction, block * reduction, seed, held_out, leap_share
    )
    latents = _encode(vae, made.frames)
    if made.leaps.any():  # what comes after a leap has not seen what was before it
        after = made.frames[made.leaps.to(made.frames.device), block * reduction :]
        latents[made.leaps, block:] = _encode(vae, after)
    flat = encoder.encode([text for pair in made.texts for text in pair])
    return LatentClips(
        latents,
        flat.reshape(count, 2, *flat.shape[1:]).cpu().half(),
        made.switch,
        made.begins,
        made.leaps,
    )


def _encode(vae: TinyVAE, frames: Tensor) -> Tensor:
    """Clips uint8 [N, T, 3, H, W] as latents, float16 on the host."""
    device = vae.latent_mean.device
    parts = torch.split(frames, 4 if device.type == "cpu" else 32)
    latents = [vae.encode(part.to(device).float() / 255)[0].half() for part in parts]
    return torch.cat(latents).cpu()


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
    per_shard: int | None = None,
    leap_share: float = 0.0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write shards of some clips; shards that are there already are kept.

    per_shard: clips of a shard; None: as many as LATENTS_PER_SHARD latent frames are.
    leap_share: see render_pairs; teachers of whole clips must not be shown leaps.
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
                per_shard or LATENTS_PER_SHARD // num_latents,
                num_latents,
                block,
                seed=(seed << 32) + index,
                held_out=index == 0,
                leap_share=leap_share,
            )
            with replacing(path) as partial:
                save_file(dict(vars(clips)), partial)
        on_progress(index + 1)
