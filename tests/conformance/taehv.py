"""Cases f: TAEHV: whole clip, one latent frame at a time, chunks of three, and encoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from streamer.models.tiny_vae import TinyVAE, TinyVAEConfig, trim_published_growth
from tests.conformance.casefile import CaseFile, Difference, compare
from tests.conformance.procedural import draw, draw_state


def run(case: CaseFile) -> list[Difference]:
    """Every recorded tensor that this project means to reproduce; streams must equal the clip."""
    vae = TinyVAE(_read_config(case.sheet))
    procedural = case.sheet.get("procedural")
    if procedural is None:
        vae.load_state_dict(trim_published_growth(case.weights(), vae))
        latents, video = case["io.in.latents"], case["io.in.video"]
    else:
        shapes = {name: tuple(value.shape) for name, value in vae.state_dict().items()}
        vae.load_state_dict(draw_state(shapes, procedural))
        latents, video = (_draw_input(case.sheet, name) for name in ("latents", "video"))
    with torch.inference_mode():
        raw = _decode_untrimmed(vae, latents)
        encoded, _ = vae.encode(video)
        split = vae.config.temporal_reduction * 2
        first, state = vae.encode(video[:, :split])
        rest, _ = vae.encode(video[:, split:], state)
        streams = {
            "clip": vae.decode(latents)[0],
            "frames": _decode_chunks(vae, latents, 1),
            "threes": _decode_chunks(vae, latents, 3),
        }
    differences = [
        compare("io.out.decoder_raw", case["io.out.decoder_raw"], raw),
        compare("io.out.encoded", case["io.out.encoded"], encoded),
        compare("io.out.encoded, in two parts", encoded, torch.cat([first, rest], 1)),
    ]
    recorded = case["io.out.pixels"]
    return differences + [
        compare(f"io.out.pixels, {name}", recorded, pixels) for name, pixels in streams.items()
    ]


def _read_config(sheet: dict[str, Any]) -> TinyVAEConfig:
    published = TinyVAEConfig(frames_to_trim=sheet["frames_to_trim"])
    widths = sheet.get("widths")
    if widths is None:
        return published
    encoder, decoder = widths["encoder"], widths["decoder"]
    return TinyVAEConfig(
        encoder_channels=(encoder, encoder, encoder, encoder),
        decoder_channels=(decoder[0], decoder[1], decoder[2], decoder[3]),
        frames_to_trim=sheet["frames_to_trim"],
    )


def _decode_untrimmed(vae: TinyVAE, latents: Tensor) -> Tensor:
    """The raw output with the frames that a stream drops: the network itself, no state."""
    untrimmed = TinyVAE(
        TinyVAEConfig(
            encoder_channels=vae.config.encoder_channels,
            decoder_channels=vae.config.decoder_channels,
            frames_to_trim=0,
        )
    )
    untrimmed.load_state_dict(vae.state_dict())
    return untrimmed.decode_raw(latents)[0]


def _decode_chunks(vae: TinyVAE, latents: Tensor, size: int) -> Tensor:
    state, parts = None, []
    for chunk in latents.split(size, dim=1):
        pixels, state = vae.decode(chunk, state)
        parts.append(pixels)
    return torch.cat(parts, 1)


def _draw_input(sheet: dict[str, Any], name: str) -> Tensor:
    spec = sheet["procedural"]["inputs"][name]
    shape = tuple(sheet["input_shapes"][name])
    return draw(shape, spec["stream"], spec["scale"], spec["offset"])
