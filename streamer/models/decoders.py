"""Which autoencoder a configuration means, loaded: ours, Wan's, its pruned form, or TAEHV."""

from __future__ import annotations

from pathlib import Path

import torch

from streamer.config import DecoderSection, weights_path
from streamer.models.checkpoints.load import fill, locate
from streamer.models.tiny_decoder import FoldedVAE
from streamer.models.tiny_vae import TAEW2_1, TinyVAE, load_vae
from streamer.models.vae import VideoVAE
from streamer.models.wan_vae import WanVAE, WanVAEConfig


def load_decoder(
    section: DecoderSection,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VideoVAE:
    """The autoencoder of a configuration, ready for inference.

    dtype: of the published ones, unless the section names one; ours always runs in float32.
    Raises WeightsError for a file that is missing, damaged or of something else.
    """
    path = weights_path(section.weights)
    if section.dtype is not None:
        dtype = getattr(torch, section.dtype)
    if section.kind == "tiny":
        return load_folded(path, device)
    if section.kind == "taehv":
        return load_taehv(path, device=device, dtype=dtype)
    return load_wan_vae(path, device=device, dtype=dtype)


def load_folded(path: Path, device: torch.device | str = "cpu") -> VideoVAE:
    """Our own autoencoder as `save_vae` wrote it, its decoder folded where it can be.

    Raises WeightsError.
    """
    vae = load_vae(path, device)
    return FoldedVAE(vae) if vae.is_linear else vae


def load_wan_vae(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> WanVAE:
    """Read Wan2.1_VAE.pth, a diffusers AutoencoderKLWan, or the pruned LightVAE; the width is read
    off the file.

    path: a file, or a folder to look in.  Raises WeightsError.
    """
    found = locate([path], "vae")
    config = WanVAEConfig()
    head = found.names.get("decoder.head.2.weight")
    if head is not None:
        config = WanVAEConfig(width=found.tensors.entries[head].shape[1])
    with torch.device("meta"):
        vae = WanVAE(config)
    fill(vae, found, dtype=dtype, device=device)
    return vae.eval().requires_grad_(False)


def load_taehv(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> TinyVAE:
    """Read the published taew2_1, as .pth or .safetensors, also one with wider TGrow kernels.

    Raises WeightsError.
    """
    found = locate([path], "taehv")
    with torch.device("meta"):
        vae = TinyVAE(TAEW2_1)
    fill(vae, found, dtype=dtype, device=device)
    return vae.eval().requires_grad_(False)
