"""Long video in fragments: how others chain short clips of a model without a rolling window.

A stream of this project needs none of it: its window rolls.  Two published ways are here because
checkpoints were shown with them, and their results should be reproducible:

* CausVid makes whole clips and hands on some latent frames, the first of them encoded anew from a
  decoded picture (`make_rollouts`).
* LightX2V's `num_fragments` hands on one block and makes the others behind it (`make_fragments`).

Both restart positions at 0 with each fragment.  `anchored_latents` also is how a given clip is
continued by any model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from streamer.models.rolling import RollingContext
from streamer.models.sampler import DenoisingSteps, Model, denoise_block, solve_block, write_block
from streamer.models.transformer import PromptKV
from streamer.models.vae import VideoVAE

BlockNoise = Callable[[int, int, int], Tensor]
"""(fragment, block, draw) -> noise [B, F, C, H, W]."""


@dataclass(frozen=True)
class Rollout:
    """One of CausVid's clips.

    start: the latents it was given, [B, n, C, H, W], n = 0 for the first.  latents: all of them.
    pixels: the whole clip [B, T, 3, H, W] in 0..1, of which the last `overlap_pictures` belong to
    the next rollout.
    """

    start: Tensor
    latents: Tensor
    pixels: Tensor


def overlap_pictures(num_latents: int, temporal_reduction: int = 4) -> int:
    """How many pictures a clip's first `num_latents` latent frames are."""
    return 1 + temporal_reduction * (num_latents - 1)


def anchored_latents(vae: VideoVAE, latents: Tensor, pixels: Tensor, count: int) -> Tensor:
    """The last `count` latent frames of a clip, fit to begin another one: [B, count, C, H, W].

    The first latent frame of a clip is one picture, a later one four; so the first is encoded anew
    from the picture that it begins with, and the others are kept.  CausVid, Yin et al. 2024,
    arXiv:2412.07772, its script for long video.

    latents: [B, F, C, H, W], F >= count.  pixels: [B, T, 3, H, W] in 0..1, the same clip decoded.
    """
    back = overlap_pictures(count, vae.config.temporal_reduction)
    picture = pixels[:, pixels.shape[1] - back][:, None].clamp(0, 1)
    anchor, _ = vae.encode(picture)
    kept = latents[:, latents.shape[1] - count + 1 :]
    return torch.cat([anchor.to(latents), kept], dim=1)


def make_rollouts(
    model: Model,
    steps: DenoisingSteps,
    noise: BlockNoise,
    text: PromptKV,
    context: RollingContext,
    vae: VideoVAE,
    *,
    blocks: Sequence[int],
    num_rollouts: int,
    overlap: int,
    context_timestep: float = 0.0,
) -> Iterator[Rollout]:
    """CausVid's long video: clips of `blocks` latent frames that share `overlap` latent frames.

    context: without a window, of at least sum(blocks) frames.
    Raises ValueError unless the overlap is made of whole leading blocks and leaves one to make.
    """
    given = 0
    while sum(blocks[:given]) < overlap:
        given += 1
    if sum(blocks[:given]) != overlap or not 0 < given < len(blocks):
        raise ValueError(
            f"an overlap of {overlap} latent frames is not made of leading blocks of "
            f"{list(blocks)}; take a multiple of the block that leaves one block to make"
        )
    start: Tensor | None = None
    for rollout in range(num_rollouts):
        context.reset()
        done: list[Tensor] = []
        if start is not None:
            done = list(torch.split(start, list(blocks[:given]), dim=1))
            for part in done:
                write_block(model, part, text, context)
        for block in range(len(done), len(blocks)):
            done.append(
                denoise_block(
                    model,
                    steps,
                    partial(noise, rollout, block),
                    text,
                    context,
                    context_timestep,
                )
            )
        latents = torch.cat(done, dim=1)
        pixels, _ = vae.decode(latents)
        yield Rollout(latents[:, :0] if start is None else start, latents, pixels)
        start = anchored_latents(vae, latents, pixels, overlap)


def make_fragments(
    model: Model,
    steps: DenoisingSteps,
    noise: BlockNoise,
    text: PromptKV,
    context: RollingContext,
    *,
    num_blocks: int,
    num_fragments: int,
) -> Tensor:
    """LightX2V's `num_fragments` (its versions of April to September 2025): latents end to end.

    There is no clean pass: later blocks see the keys of the last step's input.  A fragment after
    the first begins with the last block's sample of the last noise level, written at position 0
    and not shown again; num_blocks - 1 new blocks follow.

    noise: its block counts what is made in that fragment, from 0.
    context: without a window, of at least num_blocks blocks.
    result: [B, F, C, H, W], to be decoded as one clip.
    Raises ValueError when a fragment would make nothing.
    """
    if num_fragments < 1 or num_blocks < (2 if num_fragments > 1 else 1):
        raise ValueError(
            f"num_fragments is {num_fragments} and num_blocks {num_blocks}; a fragment after the "
            "first makes num_blocks - 1 blocks, so take at least 2"
        )
    made: list[Tensor] = []
    carried: Tensor | None = None
    for fragment in range(num_fragments):
        context.reset()
        if carried is not None:
            write_block(model, carried, text, context, steps.timesteps[-1])
        for block in range(num_blocks - (carried is not None)):
            solved = solve_block(
                model,
                steps,
                partial(noise, fragment, block),
                text,
                context,
            )
            context.commit()
            made.append(solved.clean)
            sample = solved.sample
        carried = sample
    return torch.cat(made, dim=1)
