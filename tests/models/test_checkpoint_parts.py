"""Decoders and text encoder in every layout: written small, and read back to the same output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from streamer.errors import WeightsError
from streamer.models.checkpoints import fill, load_checkpoint, locate, recognise
from streamer.models.checkpoints.convert import convert
from streamer.models.tiny_vae import TinyVAE, TinyVAEConfig
from streamer.models.umt5 import UMT5Sizes, build_umt5
from streamer.models.wan_vae import WanVAE, WanVAEConfig

MAPS = json.loads(
    (Path(__file__).parents[1] / "data" / "checkpoint_keys.json").read_text(encoding="utf-8")
)["maps"]


# ---- Wan's VAE ----------------------------------------------------------------------------------


def wan_vae(width: int = 8) -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(WanVAEConfig(width=width)).eval().requires_grad_(False)


def write_original(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "Wan2.1_VAE.pth")
    return folder / "Wan2.1_VAE.pth"


def write_safetensors(state: dict[str, Tensor], folder: Path) -> Path:
    save_file(state, folder / "lightvaew2_1.safetensors")
    return folder / "lightvaew2_1.safetensors"


def write_training_save(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save({"model_state": state, "step": 3}, folder / "vae.ckpt")
    return folder / "vae.ckpt"


def write_diffusers(state: dict[str, Tensor], folder: Path) -> Path:
    """AutoencoderKLWan's names, in the folder of a pipeline."""
    names = MAPS["map_vae_to_diffusers"]
    (folder / "vae").mkdir()
    save_file(
        {names[name]: tensor for name, tensor in state.items()},
        folder / "vae" / "diffusion_pytorch_model.safetensors",
    )
    return folder


@pytest.mark.parametrize(
    "write", [write_original, write_safetensors, write_training_save, write_diffusers]
)
def test_every_layout_of_the_vae_decodes_the_same(write, tmp_path: Path):
    reference = wan_vae()
    path = write(dict(reference.state_dict()), tmp_path)
    with torch.device("meta"):
        vae = WanVAE(WanVAEConfig(width=8))
    load_checkpoint(vae, "vae", [path])
    latents = torch.randn(1, 2, 16, 2, 2)
    assert torch.equal(vae.decode(latents)[0], reference.decode(latents)[0])


def test_the_vaes_width_is_read_off_the_file(tmp_path: Path):
    path = write_safetensors(dict(wan_vae().state_dict()), tmp_path)
    found = recognise([path])
    assert (found.kind, found.sizes["width"]) == ("vae", 8)
    assert "LightVAE" in found.title


def test_a_vae_of_another_width_is_named(tmp_path: Path):
    path = write_original(dict(wan_vae().state_dict()), tmp_path)
    with torch.device("meta"):
        vae = WanVAE(WanVAEConfig(width=24))
    with pytest.raises(WeightsError, match=r"pruned to width 8 .*'wan' or 'lightvae'"):
        load_checkpoint(vae, "vae", [path])


def test_half_a_vae_is_named(tmp_path: Path):
    state = {name: t for name, t in wan_vae().state_dict().items() if name.startswith("decoder.")}
    path = write_original(
        state | {"conv2.weight": wan_vae().state_dict()["conv2.weight"]}, tmp_path
    )
    with pytest.raises(WeightsError, match="missing"):
        load_checkpoint(wan_vae(), "vae", [path])


def test_a_vae_is_converted_to_our_names(tmp_path: Path):
    path = write_diffusers(dict(wan_vae().state_dict()), tmp_path)
    convert(locate([path], "vae"), tmp_path / "vae.safetensors")
    with torch.device("meta"):
        vae = WanVAE(WanVAEConfig(width=8))
    load_checkpoint(vae, "vae", [tmp_path / "vae.safetensors"])
    state = wan_vae().state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in vae.state_dict().items())


# ---- TAEHV --------------------------------------------------------------------------------------


TINY = TinyVAEConfig(encoder_channels=(8, 8, 8, 8), decoder_channels=(16, 8, 8, 8))


def taehv() -> TinyVAE:
    torch.manual_seed(0)
    return TinyVAE(TINY).eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["taew2_1.pth", "taew2_1.safetensors"])
def test_taew_decodes_the_same(name: str, tmp_path: Path):
    reference = taehv()
    state = dict(reference.state_dict())
    if name.endswith(".pth"):
        torch.save(state, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    vae = taehv()
    torch.nn.init.zeros_(next(vae.parameters()))
    load_checkpoint(vae, "taehv", [tmp_path / name])
    latents = torch.randn(1, 2, 16, 2, 2)
    assert torch.equal(vae.decode(latents)[0], reference.decode(latents)[0])


def test_of_a_wider_growth_kernel_the_last_rows_are_kept(tmp_path: Path):
    """Older files were saved for more frames per latent than the model shows."""
    reference = taehv()
    state = dict(reference.state_dict())
    name = "decoder.7.conv.weight"
    state[name] = torch.cat([torch.full_like(state[name], 9.0), state[name]])
    torch.save(state, tmp_path / "taew2_1.pth")
    vae = taehv()
    load_checkpoint(vae, "taehv", [tmp_path / "taew2_1.pth"])
    assert torch.equal(vae.state_dict()[name], reference.state_dict()[name])


def test_only_growth_kernels_may_be_wider(tmp_path: Path):
    state = dict(taehv().state_dict())
    name = "decoder.1.weight"
    state[name] = torch.cat([state[name], state[name]])
    torch.save(state, tmp_path / "taew2_1.pth")
    with pytest.raises(WeightsError, match=r"decoder\.1\.weight is \(32, 16, 3, 3\), the config"):
        load_checkpoint(taehv(), "taehv", [tmp_path / "taew2_1.pth"])


# ---- UMT5 ---------------------------------------------------------------------------------------


SIZES = UMT5Sizes(32, 16, 2, 2, 8, 24, 32)


def original_umt5(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Wan's names for a two-layer encoder, from the names of `transformers`."""
    from streamer.models.checkpoints.layouts import umt5_from_original

    names = [
        name.replace("blocks.0.", f"blocks.{layer}.")
        for name in MAPS["map_umt5_to_transformers"]
        if not name.startswith("blocks.") or name.startswith("blocks.0.")
        for layer in range(2 if name.startswith("blocks.") else 1)
    ]
    return {name: state[umt5_from_original(name) or ""].clone() for name in names}


@pytest.mark.parametrize("layout", ["original", "transformers", "transformers without a twin"])
def test_every_layout_of_umt5_encodes_the_same(layout: str, tmp_path: Path):
    torch.manual_seed(0)
    reference = build_umt5(SIZES)
    state = reference.state_dict()
    if layout == "original":
        path = tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"
        torch.save(original_umt5(state), path)
    else:
        path = tmp_path / "model.safetensors"
        twin = "encoder.embed_tokens.weight"
        kept = {n: t.clone() for n, t in state.items() if n != twin or layout == "transformers"}
        save_file(kept, path)
    with torch.device("meta"):
        network = build_umt5(SIZES)
    fill(network, locate([path], "text"))
    tokens = torch.tensor([[3, 4, 5, 1, 0, 0]])
    mask = (tokens != 0).long()
    made, wanted = (
        each(tokens, attention_mask=mask).last_hidden_state for each in (network, reference)
    )
    assert torch.equal(made, wanted)
