"""How much memory a configuration needs, computed from its sizes before anything is loaded.

Bytes, on the device unless said otherwise.  The sizes are those of the published networks; what a
forward pass holds for a moment is estimated by its largest tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamer.config import CANVAS_COVERS, Config, ModelSection, TransformerSection

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SPATIAL_REDUCTION = 8
UNLIMITED_WINDOW_FRAMES = 240

TEXT_PARAMETERS = {"umt5": 5_680_910_336, "storybook": 2_000_000}
DECODER_PARAMETERS = {
    "wan": 126_892_531,
    "lightvae": 126_892_531 // 16,
    "taehv": 11_315_539,
    "tiny": 2_000_000,
}
DECODER_PASS_CHANNELS = {"wan": 96 * 6, "lightvae": 24 * 6, "taehv": 64 * 6, "tiny": 32 * 6}
"""Channels at full size that a decoder holds at once, for one picture: estimated."""


@dataclass(frozen=True)
class Needs:
    """Bytes for one stream of a model.

    largest_tensor: what loading takes on the host beside the weights themselves.
    """

    transformer: int
    text: int
    decoder: int
    cache: int
    passing: int
    largest_tensor: int
    is_text_parked: bool = False

    @property
    def device(self) -> int:
        """All of it together on one device; a parked text encoder stays on the host."""
        text = 0 if self.is_text_parked else self.text
        return self.transformer + text + self.decoder + self.cache + self.passing

    @property
    def device_with_parked_text(self) -> int:
        """The same while the text encoder waits in the host's memory."""
        return self.device - (0 if self.is_text_parked else self.text)


def needs(config: Config) -> Needs:
    """What one stream of a configuration needs; all zero for models without weights."""
    if config.model is None:
        return Needs(0, 0, 0, 0, 0, 0)
    section, stream = config.model.transformer, config.stream
    size = BYTES[section.dtype]
    tokens = _tokens(config)
    block, is_fused = stream.num_frame_per_block, _may_be_fused(config.model)
    rows = tokens * block * (2 if is_fused else 1)
    streams = 2 if config.model.sampler.guidance_scale != 1 else 1
    frames = (stream.window or UNLIMITED_WINDOW_FRAMES) + (block if is_fused else 0)
    ring = (section.num_layers + section.carries) * frames * tokens * _bytes_held(config.model)
    text = section.num_layers * section.text_length * size
    cache = round(2 * section.width * (ring + text) * streams)
    widest = max(section.ffn_width, 6 * section.width)
    passing = streams * rows * (widest + 6 * section.width) * size
    decoders = [config.model.decoder.kind]
    if config.model.small_decoder is not None:
        decoders.append(config.model.small_decoder.kind)
    picture = stream.width * stream.height
    return Needs(
        transformer=transformer_parameters(section) * size,
        text=TEXT_PARAMETERS[config.model.text.kind] * BYTES[config.model.text.dtype],
        decoder=sum(DECODER_PARAMETERS[kind] for kind in decoders) * 4,
        cache=cache,
        passing=passing + picture * max(DECODER_PASS_CHANNELS[kind] for kind in decoders) * 4,
        largest_tensor=max(section.ffn_width, 6 * section.width) * section.width * size,
        is_text_parked=config.model.text.parked,
    )


def _may_be_fused(model: ModelSection) -> bool:
    """Whether two blocks may share a pass, for which the ring has room behind it."""
    return model.device != "cpu" if model.fused is None else model.fused


def _bytes_held(model: ModelSection) -> float:
    """Of one number in the ring; codes share a scale of four bytes by the head."""
    section = model.transformer
    if model.eight_bit_cache is None:
        return BYTES[section.dtype]
    return 1 + 4 * section.num_heads / section.width


def transformer_parameters(section: TransformerSection) -> int:
    """How many numbers a transformer of these sizes holds; 1,418,996,800 for Wan2.1 1.3B."""
    width, ffn = section.width, section.ffn_width
    attention = 4 * (width * width + width) + 2 * width
    feed_forward = width * ffn + ffn + ffn * width + width
    block = 2 * attention + 2 * width + feed_forward + 6 * width
    patch = 4 * section.latent_channels
    grid = section.learned_grid
    whole_text = section.text_length * section.text_width
    pooled = whole_text * width + width * width + 2 * width
    canvas = 0
    if grid and (hidden := section.text_canvas):
        reader = 2 * whole_text * hidden + 2 * hidden * hidden + 4 * hidden
        tokens = grid[0] * grid[1]
        outputs = tokens * (patch + section.canvas_frames * (patch + CANVAS_COVERS))
        canvas = 2 * reader + (hidden + 1) * outputs + CANVAS_COVERS * patch * patch
        canvas += patch * width + width
        canvas += 3 * width + 1 if section.predicts_clean else 0
    carry = 0
    if copies := section.carries:
        carry = copies * (2 * (width * width + width) + 2 * width) + 2 * width
        carry += (copies + 1) * (width + 1)
        carry += 4 * width * ((copies + 2) * patch + width + 2) + patch
    return (
        section.num_layers * block
        + width * patch
        + width
        + section.text_width * width
        + width
        + width * width
        + width
        + section.freq_width * width
        + width
        + width * width
        + width
        + width * 6 * width
        + 6 * width
        + width * patch
        + patch
        + 2 * width
        + (grid[0] * grid[1] * width if grid else 0)
        + (pooled if section.pooled_text else 0)
        + canvas
        + carry
    )


def _tokens(config: Config) -> int:
    """Tokens of one latent frame: patches of 2x2 latents, eight pixels each."""
    assert config.model is not None
    grid = config.model.transformer.learned_grid
    if grid is not None:
        return grid[0] * grid[1]
    side = 2 * SPATIAL_REDUCTION
    return (config.stream.width // side) * (config.stream.height // side)
