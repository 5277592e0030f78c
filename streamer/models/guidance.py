"""What the sampler calls as its model: the transformer in its own number format, and guidance.

Classifier-free guidance asks for two flows, under the prompt and under a negative one, and goes
from the second towards and past the first.  Ho and Salimans 2022, arXiv:2207.12598, eq. 6, as Wan
writes it: negative + scale * (prompt - negative).  Both run as one batch, over a context with room
for both, so that neither history is ever mixed into the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamer.models.context import AttentionContext
from streamer.models.transformer import CausalWanTransformer, PromptKV


@dataclass(frozen=True)
class FlowModel:
    """A transformer as the sampler sees it: latents in, flow out, both as the sampler holds them.

    scale: of the guidance; 1 asks once.  Owner: DiffusionModel.
    """

    transformer: CausalWanTransformer
    scale: float = 1.0

    @property
    def batch(self) -> int:
        """How many samples the context of a stream holds: the prompt's, and the negative one's."""
        return 1 if self.scale == 1.0 else 2

    @property
    def dtype(self) -> torch.dtype:
        """What the transformer computes in."""
        return self.transformer.head.head.weight.dtype

    def encode_text(self, embeds: Tensor, negative: Tensor | None = None) -> PromptKV:
        """Keys and values of a prompt, and behind it of the negative prompt where one is asked.

        embeds, negative: [1, n, text_width].  Raises ValueError when the negative one is missing.
        """
        if self.batch == 1:
            return self.transformer.encode_text(embeds.to(self.dtype))
        if negative is None:
            raise ValueError(f"guidance with scale {self.scale} needs a negative prompt")
        rows = max(embeds.shape[1], negative.shape[1])
        both = torch.cat([_padded(embeds, rows), _padded(negative, rows)])
        return self.transformer.encode_text(both.to(self.dtype))

    def __call__(
        self, latents: Tensor, timestep: Tensor, text: PromptKV, context: AttentionContext
    ) -> Tensor:
        """The flow of latents [B, F, C, H, W] at timestep [B] or [B, F]; the same shape and dtype.

        B is 1 with guidance.
        """
        if self.batch == 1:
            flow: Tensor = self.transformer(latents.to(self.dtype), timestep, text, context)
            return flow.to(latents.dtype)
        twice: Tensor = self.transformer(
            torch.cat([latents, latents]).to(self.dtype),
            torch.cat([timestep, timestep]),
            text,
            context,
        )
        prompt, negative = twice.to(latents.dtype).chunk(2)
        return negative + self.scale * (prompt - negative)


def _padded(embeds: Tensor, rows: int) -> Tensor:
    """[1, n, W] with rows of zeros behind it: what a text of fewer rows means to the model."""
    missing = rows - embeds.shape[1]
    return torch.nn.functional.pad(embeds, (0, 0, 0, missing)) if missing else embeds
