"""Score: a diffusion transformer that is asked what it makes of given latents at a noise level.

Distribution matching asks two of them about a student's clip: the real score, frozen, and the fake
one, the critic.  A bidirectional score sees the whole clip at once, as the published teachers do; a
causal one sees what the student sees, which is all that a small model needs.  Wan and CausVid use
the first: Yin et al. 2024, arXiv:2412.07772.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.context import BlockCausalContext, FullContext
from streamer.models.sampler import NUM_TRAIN_TIMESTEPS
from streamer.models.transformer import CausalWanTransformer, PromptKV

ScoreKind = Literal["causal", "bidirectional"]


@dataclass(frozen=True)
class Score:
    """A network and what its tokens may look at.

    layout: block, window and sink; a bidirectional score uses the block only.
    """

    network: CausalWanTransformer
    kind: ScoreKind
    layout: RingLayout
    _everything: FullContext = field(default_factory=FullContext, init=False, repr=False)

    def flow(
        self,
        history: Tensor,
        clean: Tensor,
        noisy: Tensor,
        sigma: Tensor,
        text: PromptKV,
        past_sigma: Tensor | None = None,
    ) -> Tensor:
        """The flow of some blocks, given what came before them.

        history: [B, P, C, H, W], whole blocks, P may be 0.  clean, noisy, result: [B, F, C, H, W],
            the blocks and their noisy copy; a causal score lets later blocks see the clean copy of
            earlier ones, a bidirectional one does not use `clean`.  sigma: [B, F].
        past_sigma: noise level of the history, [B, P], for a bidirectional score that was never
            shown clean beginnings; None: it is clean.
        """
        frames, past = noisy.shape[1], history.shape[1]
        if past_sigma is None:
            past_sigma = sigma.new_zeros(len(sigma), past)
        told = torch.cat([past_sigma, sigma], 1) * NUM_TRAIN_TIMESTEPS
        latents = torch.cat([history, noisy], 1)
        if self.kind == "bidirectional":
            whole: Tensor = self.network(latents, told, text, self._everything)
            return whole[:, -frames:]
        blocks = [self.layout.block] * (latents.shape[1] // self.layout.block)
        is_alone = len(blocks) == 1
        if not is_alone:
            latents = torch.cat([history, clean, latents], 1)
            told = torch.cat([torch.zeros_like(told), told], 1)
        context = BlockCausalContext(blocks, self.layout, teacher_forcing=not is_alone)
        flow: Tensor = self.network(latents, told, text, context)
        return flow[:, -frames:]

    def draw_levels(
        self,
        batch: int,
        frames: int,
        generator: torch.Generator,
        *,
        low: float = 0.0,
        high: float = 1.0,
        shift: float = 1.0,
    ) -> Tensor:
        """Noise levels [B, F] on the CPU, even in low..high and then shifted towards noise.

        Causal: one for each block, as in CausVid.  Bidirectional: one for each clip.
        shift: as in FlowMatchTable; 1 changes nothing.
        """
        block = self.layout.block if self.kind == "causal" else frames
        points = torch.rand(batch, frames // block, generator=generator) * (high - low) + low
        return (shift * points / (1 + (shift - 1) * points)).repeat_interleave(block, 1)
