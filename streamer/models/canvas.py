"""TextCanvas: the mean picture of a text, in latents, laid under the tokens of every pass.

A few-step model draws its first block from noise alone, and what its text settles about the picture
(where the horizon is, which colours, what stands in the middle) it must find by attention, which
takes a small model a very long time to learn.  The mean of all pictures of a text is learned a
hundred times cheaper, by plain regression, before everything else; the transformer then only has to
make it sharp and let it live.  The published models have none.

Knows nothing of time, noise or streams.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Picture(nn.Module):
    """What the parts of a text add up to, and a correction for what they do to each other.

    The sum alone gets what is seldom said right soonest (a subject), and combinations that nobody
    has shown it; the correction, what is common (the light of a night on a city).
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.sum = nn.Sequential(nn.Linear(inputs, hidden), nn.Linear(hidden, outputs))
        self.correction = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, outputs),
        )

    @torch.no_grad()
    def initialise(self) -> None:
        """Begin without a correction."""
        for parameter in self.correction[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, text: Tensor) -> Tensor:
        """[B, inputs] -> [B, outputs]."""
        out: Tensor = self.sum(text) + self.correction(text)
        return out


class TextCanvas(nn.Module):
    """Text to the mean clean latents of a stream's first block, and these to a vector a token.

    rows, columns: tokens of a latent frame.  patch: latent rows and columns of one token.
    """

    def __init__(
        self,
        text_size: int,
        hidden: int,
        channels: int,
        grid: tuple[int, int],
        patch: tuple[int, int],
        width: int,
    ) -> None:
        super().__init__()
        self.grid, self.patch, self.channels = grid, patch, channels
        inside = patch[0] * patch[1] * channels
        self.picture = _Picture(text_size, hidden, grid[0] * grid[1] * inside)
        self.tokens = nn.Linear(inside, width)

    @torch.no_grad()
    def initialise(self) -> None:
        """Begin without effect on the tokens, and without a correction."""
        self.picture.initialise()
        nn.init.zeros_(self.tokens.weight)
        nn.init.zeros_(self.tokens.bias)

    def patches(self, embeds: Tensor) -> Tensor:
        """The mean picture cut into tokens: [B, n, text_width] -> [B, rows * columns, inside]."""
        flat: Tensor = self.picture(embeds.flatten(1))
        return torch.unflatten(flat, 1, (self.grid[0] * self.grid[1], -1))

    def forward(self, embeds: Tensor) -> Tensor:
        """[B, n, text_width] -> [B, rows * columns, width]."""
        out: Tensor = self.tokens(self.patches(embeds))
        return out

    def loss(self, embeds: Tensor, patches: Tensor) -> Tensor:
        """How far the mean pictures are from true ones, squared: a scalar.

        patches: [B, rows * columns, inside], clean latents cut as the transformer cuts them.
        """
        return F.mse_loss(self.patches(embeds), patches)
