"""Pictures to the clean latents that a stream goes on from.

As CausVid's prefill and Self-Forcing's independent first frame do it: the latents are written into
the history by passes at the clean timestep, and generation goes on behind them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from streamer.models.vae import VideoVAE
from streamer.stream import MOST_OPENING_FRAMES


def encode_pictures(vae: VideoVAE, pictures: Tensor, block: int, window: int = 0) -> Tensor:
    """The end of a clip, or one picture, as latents float32 [1, F, C, h, w].

    pictures: uint8 [T, H, W, 3].  block, window: of the stream, in latent frames; window 0: none.
    F is as much as the pictures fill and the window holds, and a multiple of the block as soon as
    one is full.
    Raises ValueError for sides that are no multiples of the spatial reduction.
    """
    config = vae.config
    step = config.temporal_reduction
    first = 1 if config.has_single_first else step
    full = 1 + (len(pictures) - first) // step if len(pictures) >= first else 1
    frames = min(full, window or MOST_OPENING_FRAMES)
    frames -= frames % block if frames > block else 0
    taken = pictures[-(first + step * (frames - 1)) :]
    if config.has_single_first and not config.encodes_single_first:
        # This encoder merges `step` pictures into the first latent frame, too.
        taken = torch.cat([*[taken[:1]] * (step - 1), taken])
    pixels = taken.permute(0, 3, 1, 2)[None].float() / 255.0
    latents, _ = vae.encode(pixels)
    return latents.float()
