"""CanvasStage: teaches a TextCanvas the mean first block of each text, by plain regression.

It comes before `student`: minutes of one core, after which a first step from pure noise knows where
things stand.  What is learned here stays as it is afterwards (StudentStage freezes it): a flow's
gradient is far noisier than this one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from streamer.distill.blueprint import new_transformer
from streamer.distill.draws import draw_noise, send
from streamer.distill.optimizer import Muon, build_optimizer
from streamer.distill.shards import LatentClips
from streamer.distill.trainer import Update
from streamer.errors import ConfigError
from streamer.models.canvas import TextCanvas
from streamer.models.checkpoint import load_weights
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

CANVAS_FILE = "canvas.safetensors"


@dataclass(frozen=True)
class CanvasStageConfig:
    """What a step is made of.

    beginnings: first blocks per step.  caption_dropout: share of them that are told nothing.
    slot_dropout: share of single slots that are told nothing.  blur: how much noise texts get.
    lr: AdamW's.  More than about nine passes over 38,000 beginnings only learn them by
    heart; the held-out loss tells.
    """

    beginnings: int = 384
    caption_dropout: float = 0.05
    slot_dropout: float = 0.05
    blur: float = 0.3
    lr: float = 1e-3


class CanvasStage:
    """The canvas of one size of transformer, and first blocks of clips.

    nothing: [K, E], the encoding of an empty text.
    start: an earlier export to go on from, when the world has changed; None: new weights.
    Raises ConfigError for a transformer without a canvas, WeightsError for a start of other sizes.
    """

    def __init__(
        self,
        sizes: TransformerConfig,
        beginnings: LatentClips,
        held_out: LatentClips,
        nothing: Tensor,
        config: CanvasStageConfig | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        start: Path | None = None,
    ) -> None:
        if not sizes.text_canvas:
            raise ConfigError("the model has no text_canvas; there is nothing to teach it")
        self.config = config or CanvasStageConfig()
        self.device = torch.device(device)
        self._network = new_transformer(sizes, seed)
        if start is not None:
            load_canvas(self._network, start)
        self._network.to(self.device)
        self._nothing = nothing.to(self.device)
        self._text = beginnings.text[:, 0]
        self._patches = self._cut(beginnings)
        self._held_out = held_out.text[:, 0].float(), self._cut(held_out).float()

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The part of the canvas that is trained here."""
        return {"picture": self._network.text_canvas.picture}

    @property
    def averaged(self) -> tuple[str, ...]:
        """The same."""
        return ("picture",)

    def build_optimizer(self) -> Muon:
        """AdamW for all of it: the last map is a table of pictures."""
        return build_optimizer(self.modules.values(), muon_lr=0, adam_lr=self.config.lr)

    def loss(self, step: int, generator: torch.Generator) -> Update:
        """Squared distance of the mean blocks from blocks of their texts."""
        count = self.config.beginnings
        rows = torch.randint(len(self._text), (count,), generator=generator)
        rows = send(rows, self._text.device)
        is_told = torch.rand(count, 1, 1, generator=generator) >= self.config.caption_dropout
        told, wanted = (
            send(part[rows].float(), self.device) for part in (self._text, self._patches)
        )
        share = 2 * self.config.slot_dropout * torch.rand(count, 1, 1, generator=generator)
        is_told = is_told & (torch.rand(count, told.shape[1], 1, generator=generator) >= share)
        text = torch.where(send(is_told, self.device), told, self._nothing.float())
        text = text + self.config.blur * draw_noise(text.shape, generator, self.device)
        return self._canvas.loss(text, wanted), {}

    @torch.no_grad()
    def sample_sheet(self, path: Path) -> dict[str, float]:
        """The loss on combinations that training never saw.  Draws nothing."""
        text, patches = self._held_out
        loss = self._canvas.loss(text.to(self.device), patches.to(self.device))
        return {"held_out_loss": loss.item()}

    @torch.no_grad()
    def export(self, directory: Path) -> None:
        """Write the pictures for `load_canvas`, float16."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = self._canvas.picture.state_dict()
        save_file({name: t.half().contiguous() for name, t in tensors.items()},
                  directory / CANVAS_FILE)  # fmt: skip

    @property
    def _canvas(self) -> TextCanvas:
        return self._network.text_canvas

    def _cut(self, clips: LatentClips) -> Tensor:
        """The first blocks as the canvas has them, [N, frames * tokens of a frame, inside]."""
        frames = self._canvas.frames
        parts = (
            torch.unflatten(part.float(), 1, (frames, -1)).mean(2)
            for part in torch.split(clips.latents, 256)
        )
        return torch.cat([self._network.cut(part) for part in parts]).half()


def load_canvas(network: CausalWanTransformer, folder: Path) -> None:
    """Put the pictures of an export into a transformer.

    Raises ConfigError for a transformer without a canvas, WeightsError for a file of other sizes.
    """
    if not network.config.text_canvas:
        raise ConfigError(f"{folder}: the model has no text_canvas to put it into")
    load_weights(network.text_canvas.picture, [folder / CANVAS_FILE])
