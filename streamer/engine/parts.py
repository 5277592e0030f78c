"""The parts of a diffusion model, loaded as a configuration asks, and checked to fit each other."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from streamer.config import Config, ModelSection, weights_path
from streamer.engine.drawn import DrawnText, draw_decoder, draw_transformer
from streamer.engine.steering import Mixture
from streamer.errors import ConfigError
from streamer.models.checkpoints import LoraFile, load_checkpoint
from streamer.models.checkpoints.load import Progress
from streamer.models.decoders import load_decoder
from streamer.models.sampler import DenoisingSteps, FlowMatchTable
from streamer.models.text import TextEncoder, load_text_encoder
from streamer.models.transformer import CausalWanTransformer, TransformerConfig
from streamer.models.umt5 import load_umt5
from streamer.models.vae import VAESizes, VideoVAE

logger = logging.getLogger(__name__)

KEPT_TEXTS = 64
WIDE = 1024
"""Transformers from this width on are built without initial weights."""


class TextMemory:
    """Encodings of the texts used last, so that a blend or a return to a text costs nothing.

    Owner: DiffusionModel.  At most KEPT_TEXTS are kept, in the host's memory.
    """

    def __init__(self, encoder: TextEncoder, device: torch.device) -> None:
        self._encoder = encoder
        self._device = device
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def embed(self, mixture: Mixture) -> Tensor:
        """Weighted sum of the texts' encodings: float32 [1, K, text_width] on the device."""
        parts = [
            self._encoding(text).to(self._device, torch.float32) * weight
            for text, weight in mixture
        ]
        return torch.stack(parts).sum(dim=0)

    def _encoding(self, text: str) -> Tensor:
        found = self._kept.get(text)
        if found is None:
            found = self._kept[text] = self._encoder.encode([text]).cpu()
            if len(self._kept) > KEPT_TEXTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(text)
        return found


def choose_device(name: str) -> torch.device:
    """The device of a configuration.  Raises ConfigError when it cannot be used here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"model.device is {name!r}, which cannot be used here: {error}"
        ) from error
    return device


def load_transformer(
    model: ModelSection, device: torch.device, report: Progress
) -> CausalWanTransformer:
    """The transformer with its weights and LoRAs.  Raises WeightsError."""
    if model.random_weights:
        return draw_transformer(model, device)
    section = model.transformer
    sizes = TransformerConfig.of(section)
    # The meta device saves a large model its initialisation, but costs a second of imports.
    with torch.device("meta" if sizes.width >= WIDE else "cpu"):
        transformer = CausalWanTransformer(sizes)
    load_checkpoint(
        transformer,
        "transformer",
        [weights_path(name) for name in section.weights],
        dtype=getattr(torch, section.dtype),
        device=device,
        loras=[LoraFile(weights_path(lora.weights), lora.scale) for lora in section.loras],
        assume_causal=section.assume_causal,
        on_progress=report,
    )
    return transformer.to(device).eval().requires_grad_(False)


def load_vae(model: ModelSection, device: torch.device, dtype: torch.dtype) -> VideoVAE:
    """The decoder; dtype: what a published one computes in.  Raises WeightsError."""
    if model.random_weights:
        return draw_decoder(model.decoder, device, dtype)
    return load_decoder(model.decoder, device=device, dtype=dtype)


def load_small_vae(
    name: str, model: ModelSection, whole: VAESizes, device: torch.device, dtype: torch.dtype
) -> VideoVAE | None:
    """The small decoder, where the configuration names one and its file is there.

    whole: the sizes of the decoder that it stands in for.
    Raises WeightsError, and ConfigError when it cannot stand in.
    """
    section = model.small_decoder
    if section is None:
        return None
    if model.random_weights:
        small = draw_decoder(section, device, dtype)
    elif (path := weights_path(section.weights)).exists():
        small = load_decoder(section, device=device, dtype=dtype)
    else:
        logger.warning("event=small_decoder_missing path=%s measure=not_taken", path)
        return None
    for size in ("latent_channels", "spatial_reduction", "temporal_reduction", "has_single_first"):
        wanted, found = getattr(whole, size), getattr(small.config, size)
        if found != wanted:
            raise ConfigError(
                f"{name}: {size} of model.small_decoder is {found}, of model.decoder {wanted}; "
                "take one for the same latents, or leave it out"
            )
    return small


def load_text(
    model: ModelSection, device: torch.device, report: Callable[[float, str], None]
) -> TextEncoder:
    """The text encoder.  Raises WeightsError, and ConfigError when a package is missing."""
    section = model.text
    if model.random_weights:
        return DrawnText(model.transformer.text_length, model.transformer.text_width)
    path = weights_path(section.weights)
    if section.kind == "storybook":
        return load_text_encoder(path, str(device))
    tokenizer = weights_path(section.tokenizer) if section.tokenizer else path.parent
    return load_umt5(
        path,
        tokenizer,
        dtype=getattr(torch, section.dtype),
        device=device,
        is_parked=section.parked,
        text_length=model.transformer.text_length,
        on_progress=report,
    )


def read_steps(model: ModelSection) -> DenoisingSteps:
    """The denoising steps.  Raises ConfigError for a list that cannot be meant."""
    return _steps(model, "denoising_step_list", model.sampler.denoising_step_list)


def read_reduced_steps(model: ModelSection) -> DenoisingSteps | None:
    """The shorter list of steps, where there is one.  Raises ConfigError as read_steps does."""
    steps = model.sampler.reduced_step_list
    return None if steps is None else _steps(model, "reduced_step_list", steps)


def _steps(model: ModelSection, key: str, steps: Sequence[float]) -> DenoisingSteps:
    section = model.sampler
    if not all(step.is_integer() for step in steps):
        raise ConfigError(f"model.sampler.{key} is {list(steps)}; only whole numbers are supported")
    numbers = [int(step) for step in steps]
    if section.solver == "unipc":
        if section.warp:
            raise ConfigError(
                "model.sampler.solver is 'unipc', which takes timesteps as they are; set warp to "
                f"false and write the warped timesteps into {key}"
            )
        return DenoisingSteps.literal(numbers)
    try:
        return FlowMatchTable(section.shift).steps(numbers, warp=section.warp)
    except ValueError as error:
        raise ConfigError(f"model.sampler: {error}") from error


def latent_size(config: Config, decoder: VAESizes, model: ModelSection) -> tuple[int, int]:
    """Rows and columns of the latents.  Raises ConfigError when sizes do not fit each other."""
    stream, side = config.stream, decoder.spatial_reduction
    if decoder.latent_channels != model.transformer.latent_channels:
        raise ConfigError(
            f"{config.name}: the decoder has {decoder.latent_channels} latent channels, "
            f"model.transformer.latent_channels is {model.transformer.latent_channels}"
        )
    if stream.width % (2 * side) or stream.height % (2 * side):
        raise ConfigError(
            f"{config.name}: {stream.width}x{stream.height} pixels do not divide into tokens of "
            f"{2 * side}x{2 * side}; choose multiples of {2 * side}"
        )
    return stream.height // side, stream.width // side


def check_text(name: str, model: ModelSection, text: TextEncoder) -> None:
    """Raise ConfigError unless the transformer can read what the text encoder makes."""
    section = model.transformer
    if text.text_width != section.text_width or text.text_length > section.text_length:
        raise ConfigError(
            f"{name}: the text encoder makes {text.text_length} rows of {text.text_width}, "
            f"model.transformer reads {section.text_length} of {section.text_width}"
        )
