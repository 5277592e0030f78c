"""Workshop: the parts that the stages of a diffusion transformer share, loaded as they are needed.

One for each run of a stage.  It knows the model's configuration, where autoencoder and text encoder
come from, and the device; it hands out networks, clips and previews.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from streamer.config import Config, load_config
from streamer.distill.blueprint import Blueprint, blueprint_of, new_transformer, read_transformer
from streamer.distill.canvas_stage import load_canvas
from streamer.distill.console import model_section
from streamer.distill.preview import Previewer
from streamer.distill.ranks import num_ranks, shard
from streamer.distill.shards import ClipSource, LatentClips, read_clips
from streamer.distill.stored_clips import StoredClips, is_light
from streamer.engine.parts import load_text, load_transformer
from streamer.errors import ConfigError
from streamer.models.decoders import load_decoder
from streamer.models.text import TextEncoder
from streamer.models.transformer import CausalWanTransformer, TransformerConfig
from streamer.models.vae import VideoVAE

PUBLISHED = Path("config")
"""As a start or a teacher: the weights that the model's configuration names."""


@dataclass(frozen=True)
class Workshop:
    """Where the parts come from.

    source: a configuration by name or file; None: the default.  vae, text: other weights than the
    configuration's.  is_bf16: frozen networks are held in bfloat16.
    """

    source: str | None
    device: torch.device
    seed: int = 0
    vae_path: Path | None = None
    text_path: Path | None = None
    is_bf16: bool = False

    @cached_property
    def config(self) -> Config:
        """The configuration, with the weights that were named instead of its own."""
        config = load_config(self.source)
        model = model_section(config)
        decoder, text = model.decoder, model.text
        if self.vae_path is not None:
            decoder = decoder.model_copy(update={"weights": str(self.vae_path)})
        if self.text_path is not None:
            text = text.model_copy(update={"weights": str(self.text_path)})
        model = model.model_copy(update={"decoder": decoder, "text": text})
        return config.model_copy(update={"model": model})

    @cached_property
    def blueprint(self) -> Blueprint:
        """Sizes, window, steps."""
        return blueprint_of(self.config)

    def load_vae(self) -> VideoVAE:
        """The autoencoder.  Raises WeightsError."""
        model = model_section(self.config)
        dtype = torch.bfloat16 if self.is_bf16 and self.device.type == "cuda" else torch.float32
        return load_decoder(model.decoder, device=self.device, dtype=dtype)

    def load_encoder(self) -> TextEncoder:
        """The text encoder.  Raises WeightsError."""
        return load_text(model_section(self.config), self.device, lambda share, what: None)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Encode some texts and let the encoder go: float32 [B, K, E] on the device."""
        encoder = self.load_encoder()
        return torch.cat([encoder.encode([text]) for text in texts]).to(self.device, torch.float32)

    def new_network(
        self, sizes: TransformerConfig | None = None, canvas: Path | None = None
    ) -> CausalWanTransformer:
        """A network to train from nothing, of the configuration's sizes or others.

        canvas: an export of `canvas`, whose pictures it begins with and keeps.
        Raises WeightsError.
        """
        network = new_transformer(sizes or self.blueprint.transformer, self.seed)
        if canvas is not None:
            load_canvas(network, canvas)
            _keep_canvas(network)
        return self._placed(network)

    def read_network(self, folder: Path, is_frozen: bool = False) -> CausalWanTransformer:
        """The network of an export, or with PUBLISHED that of the configuration, split over ranks.

        is_frozen: it will not be trained.  Raises WeightsError.
        """
        return self._placed(self._read(folder, is_frozen))

    def read_whole(self, folder: Path) -> CausalWanTransformer:
        """A frozen network, whole on each rank.  Raises WeightsError."""
        return self._read(folder, is_frozen=True).to(self.device)

    def read_clips(self, folders: Sequence[Path]) -> ClipSource:
        """Clips and texts of some folders: in memory while they are small, else read as needed.

        Raises WeightsError for a folder without shards.
        """
        if all(is_light(folder) for folder in folders):
            return _joined([read_clips(folder) for folder in folders]).on(self.device)
        vae = self.load_vae().config
        stream = self.config.stream
        shape = (
            vae.latent_channels,
            stream.height // vae.spatial_reduction,
            stream.width // vae.spatial_reduction,
        )
        return StoredClips(folders, shape, self.blueprint.transformer.text_length)

    def previewer(self, shape: tuple[int, int, int], texts: Tensor) -> Previewer:
        """Draws the examples, whose encodings are `texts`."""
        return Previewer(
            self.blueprint.layout,
            self.blueprint.steps,
            self.load_vae(),
            tuple(torch.split(texts, 1)),
            shape,
            self.device,
        )

    def _read(self, folder: Path, is_frozen: bool) -> CausalWanTransformer:
        if folder == PUBLISHED:
            network = self._read_published(is_frozen)
        else:
            network = read_transformer(folder, self.blueprint.transformer)
        network.train(not is_frozen).requires_grad_(not is_frozen)
        _keep_canvas(network)
        if is_frozen and self.is_bf16 and self.device.type == "cuda":
            network.to(torch.bfloat16)
        return network

    def _placed(self, network: CausalWanTransformer) -> CausalWanTransformer:
        """Whole on the device, or split over the ranks, moved there a part at a time."""
        return shard(network) if num_ranks() > 1 else network.to(self.device)

    def _read_published(self, is_frozen: bool) -> CausalWanTransformer:
        model = model_section(self.config)
        dtype = "bfloat16" if is_frozen and self.is_bf16 else "float32"
        section = model.transformer.model_copy(update={"dtype": dtype, "assume_causal": True})
        model = model.model_copy(update={"transformer": section})
        return load_transformer(model, torch.device("cpu"), lambda share, what: None)


def with_sizes(sizes: TransformerConfig, changes: dict[str, int]) -> TransformerConfig:
    """Sizes with some of them changed.  Raises ConfigError for sizes that do not fit."""
    try:
        return replace(sizes, **changes)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"transformer sizes {changes}: {error}") from error


def _keep_canvas(network: CausalWanTransformer) -> None:
    if network.config.text_canvas:  # learned before by regression; a flow's gradient blurs it
        network.text_canvas.picture.requires_grad_(False)


def _joined(parts: Sequence[LatentClips]) -> LatentClips:
    if len({part.latents.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(str(tuple(part.latents.shape[1:])) for part in parts)
        raise ConfigError(f"clips of different sizes cannot be trained on together: {shapes}")
    return LatentClips(
        *(torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0]))
    )
