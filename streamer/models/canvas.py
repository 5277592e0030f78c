"""TextCanvas: the mean first block of a text, in latents, laid under the tokens of every pass.

A few-step model draws its first block from noise alone, and what its text settles about the picture
(where the horizon is, which colours, what stands in the middle) it must find by attention, which
takes a small model a very long time to learn.  The mean of all first blocks of a text is learned a
hundred times cheaper, by plain regression, before everything else; the transformer then only has to
make it sharp and let it live.  The published models have none.

Knows nothing of time, noise or streams.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamer.config import CANVAS_COVERS


class _Layers(nn.Module):
    """A place, a figure that moves before it, and what the figure hides of the place.

    So who is seen and where are learned apart, and a pair that nobody has shown it is composed of
    what it knows.  In latents that are a linear map of pixels, to hide is to take away a linear map
    of what is behind, whatever that is: the maps are learned, and shared by all tokens.
    """

    def __init__(self, inputs: int, hidden: int, frames: int, tokens: int, inside: int) -> None:
        super().__init__()
        self.frames, self.tokens, self.inside = frames, tokens, inside
        self.place = nn.Sequential(_Reader(inputs, hidden), nn.Linear(hidden, tokens * inside))
        self.figure = _Reader(inputs, hidden)
        self.colours = nn.Linear(hidden, frames * tokens * inside)
        self.covers = nn.Linear(hidden, frames * tokens * CANVAS_COVERS)
        self.hide = nn.Parameter(torch.zeros(CANVAS_COVERS, inside, inside))

    @torch.no_grad()
    def initialise(self) -> None:
        """Begin with maps that hide nearly nothing."""
        nn.init.normal_(self.hide, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        """[B, inputs] -> [B, frames, tokens, inside]."""
        place = self.place(text).unflatten(1, (1, self.tokens, self.inside))
        figure = self.figure(text)
        colours = self.colours(figure).unflatten(1, (self.frames, self.tokens, self.inside))
        covers = self.covers(figure).unflatten(1, (self.frames, self.tokens, CANVAS_COVERS))
        parts = torch.einsum("bfnc,kdc->bfnkd", place, self.hide)
        hidden = (covers.unsqueeze(-2) @ parts).squeeze(-2)
        out: Tensor = place + colours - hidden
        return out


class _Reader(nn.Module):
    """What pictures a text is mixed of: what its parts add up to, and a correction for what they do
    to each other."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.sum = nn.Linear(inputs, hidden)
        self.correction = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
        )

    def forward(self, text: Tensor) -> Tensor:
        """[B, inputs] -> [B, hidden]."""
        out: Tensor = self.sum(text) + self.correction(text)
        return out


class TextCanvas(nn.Module):
    """Text to the mean clean latents of a stream's first block, and these to a vector a token.

    frames: latent frames of a first block; 1: one picture for all of them.  rows, columns: tokens
    of a latent frame.  patch: latent rows and columns of one token.
    """

    def __init__(
        self,
        text_size: int,
        hidden: int,
        channels: int,
        frames: int,
        grid: tuple[int, int],
        patch: tuple[int, int],
        width: int,
    ) -> None:
        super().__init__()
        self.frames = frames
        inside = patch[0] * patch[1] * channels
        self.picture = _Layers(text_size, hidden, frames, grid[0] * grid[1], inside)
        self.tokens = nn.Linear(inside, width)

    @torch.no_grad()
    def initialise(self) -> None:
        """Begin without effect on the tokens."""
        self.picture.initialise()
        nn.init.zeros_(self.tokens.weight)
        nn.init.zeros_(self.tokens.bias)

    def forward(self, embeds: Tensor) -> Tensor:
        """The mean first block, cut into tokens.

        [B, n, text_width] -> [B, frames * tokens of a frame, inside].
        """
        flat: Tensor = self.picture(embeds.flatten(1)).flatten(1, 2)
        return flat

    def loss(self, embeds: Tensor, patches: Tensor) -> Tensor:
        """How far the mean blocks are from true ones, squared: a scalar.

        patches: [B, frames * tokens of a frame, inside], clean latents cut as the transformer cuts
        them.
        """
        return F.mse_loss(self(embeds), patches)
