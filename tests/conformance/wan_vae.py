"""Cases e: the Wan VAE: whole clip, streams of any chunks, a single latent frame, encoding."""

from __future__ import annotations

import torch
from torch import Tensor

from streamer.models.vae import DecoderState
from streamer.models.wan_vae import LATENT_MEAN, LATENT_STD, WanVAE, WanVAEConfig
from tests.conformance.casefile import CaseFile, Difference, compare
from tests.conformance.procedural import draw, draw_state


def run(case: CaseFile) -> list[Difference]:
    """Every recorded tensor that this project means to reproduce; streams must equal the clip."""
    vae = WanVAE(read_config(case)).eval()
    procedural = case.sheet.get("procedural")
    if procedural is None:
        vae.load_state_dict(case.weights(), strict=True)
        latents, video = case["io.in.latents"], case["io.in.video"]
    else:
        shapes = {name: tuple(value.shape) for name, value in vae.state_dict().items()}
        vae.load_state_dict(draw_state(shapes, procedural), strict=True)
        latents, video = (
            draw(tuple(spec["shape"]), spec["stream"], spec["scale"], spec.get("offset", 0.0))
            for spec in (procedural["inputs"][name] for name in ("latents", "video"))
        )
    differences = _decoding(case, vae, latents.transpose(1, 2))
    differences += _encoding(case, vae, (video.transpose(1, 2) + 1.0) / 2.0)
    return differences + [
        compare(name, case[name], torch.tensor(ours))
        for name, ours in (
            ("io.table.latents_mean", LATENT_MEAN),
            ("io.table.latents_std", LATENT_STD),
        )
        if name in case
    ]


def read_config(case: CaseFile) -> WanVAEConfig:
    """Published names of the sizes to ours."""
    sizes = case.sheet["vae"]
    if sizes.get("attn_scales"):
        raise ValueError(f"attn_scales is {sizes['attn_scales']}; Wan2.1's VAE has none")
    return WanVAEConfig(
        width=sizes["dim"],
        latent_channels=sizes["z_dim"],
        multiples=tuple(sizes["dim_mult"]),
        blocks_per_stage=sizes["num_res_blocks"],
        shrinks_time=tuple(sizes["temperal_downsample"]),
    )


def _decoding(case: CaseFile, vae: WanVAE, latents: Tensor) -> list[Difference]:
    recorded = case["io.out.pixels_unclamped"]
    splits = {"clip": [latents.shape[1]], "frames": [1] * latents.shape[1]}
    if chunks := case.sheet.get("stream_chunks"):
        splits["chunks"] = chunks
    differences = []
    for name, split in splits.items():
        pixels = decode_chunks(vae, latents, split)
        differences.append(compare(f"io.out.pixels_unclamped, {name}", recorded, pixels))
    if "io.in.single_latent" in case:
        single = decode_chunks(vae, case["io.in.single_latent"].transpose(1, 2), [1])
        differences.append(compare("io.out.single_pixels", case["io.out.single_pixels"], single))
    return differences


def decode_chunks(vae: WanVAE, latents: Tensor, split: list[int]) -> Tensor:
    """Latents [B,F,C,h,w] chunk by chunk to pictures as recorded: [B,3,T,H,W] in -1..1."""
    state: DecoderState | None = None
    parts = []
    for chunk in latents.split(split, dim=1):
        pixels, state = vae.decode_raw(chunk, state)
        parts.append(pixels)
    return torch.cat(parts, dim=1).transpose(1, 2) * 2.0 - 1.0


def _encoding(case: CaseFile, vae: WanVAE, pixels: Tensor) -> list[Difference]:
    """The recorded encoder output; a clip in two parts, and trailing pictures that are ignored."""
    recorded = case["io.out.encoded_normalised"].transpose(1, 2)
    whole, _ = vae.encode(pixels)
    first, state = vae.encode(pixels[:, :1])
    rest, _ = vae.encode(pixels[:, 1:], state)
    step = vae.config.temporal_reduction
    grouped = 1 + (pixels.shape[1] - 1) // step * step
    more, _ = vae.encode(torch.cat([pixels[:, :grouped], pixels[:, : step - 1]], dim=1))
    differences = [
        compare("io.out.encoded_normalised", recorded, whole),
        compare("io.out.encoded_normalised, in two parts", recorded, torch.cat([first, rest], 1)),
        compare("io.out.encoded_normalised, with three more pictures", recorded, more),
    ]
    if "io.out.encoded_raw_mean" in case:
        raw = vae.denormalise(whole).transpose(1, 2)
        name = "io.out.encoded_raw_mean"
        differences.append(compare(name, case[name], raw))
    return differences
