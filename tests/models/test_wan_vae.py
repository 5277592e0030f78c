"""The Wan VAE: chunks equal the clip, time is causal, published files load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from streamer.config import DecoderSection
from streamer.errors import WeightsError
from streamer.models.decoders import load_decoder, load_wan_vae
from streamer.models.wan_vae import WanVAE, WanVAEConfig

TINY = WanVAEConfig(width=2, blocks_per_stage=1)
KEYS = Path(__file__).parents[1] / "data" / "checkpoint_keys.json"


def make(config: WanVAEConfig = TINY, dtype: torch.dtype = torch.float64) -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(config).to(dtype).eval().requires_grad_(False)


def latents(frames: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, frames, 16, 2, 3, generator=generator, dtype=torch.float64)


def video(frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(1, frames, 3, 16, 24, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("split", [[1] * 7, [3, 3, 1], [2, 5], [7]])
def test_chunks_decode_to_the_same_pictures_as_the_clip(split: list[int]):
    vae, clip = make(), latents(7, batch=2)
    whole, _ = vae.decode_raw(clip)
    state, parts = None, []
    for chunk in clip.split(split, dim=1):
        pixels, state = vae.decode_raw(chunk, state)
        parts.append(pixels)
    assert [part.shape[1] for part in parts] == [4 * n - 3 * (i == 0) for i, n in enumerate(split)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("split", [[1, 4, 8], [5, 8], [13]])
def test_chunks_encode_to_the_same_latents_as_the_clip(split: list[int]):
    vae, clip = make(), video(13)
    whole, _ = vae.encode(clip)
    assert whole.shape == (1, 4, 16, 2, 3)
    state, parts = None, []
    for chunk in clip.split(split, dim=1):
        made, state = vae.encode(chunk, state)
        parts.append(made)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-12, rtol=0)


def test_pictures_behind_the_last_whole_group_are_left_out():
    vae, clip = make(), video(12)
    torch.testing.assert_close(vae.encode(clip)[0], vae.encode(clip[:, :9])[0], atol=0, rtol=0)


def test_a_sample_of_a_batch_does_not_touch_another():
    vae, clip = make(), latents(3, batch=2)
    both, _ = vae.decode_raw(clip)
    alone, _ = vae.decode_raw(clip[1:])
    torch.testing.assert_close(both[1:], alone, atol=1e-12, rtol=0)


def test_a_picture_sees_as_far_back_as_said_and_never_forward():
    config = WanVAEConfig(width=4, blocks_per_stage=1)
    vae, clip = make(config), latents(37)
    moved = clip.clone()
    moved[:, 4] += 100.0
    change = (vae.decode_raw(clip)[0] - vae.decode_raw(moved)[0]).abs().amax(dim=(0, 2, 3, 4))
    changed = [frame for frame, amount in enumerate(change.tolist()) if amount > 0.0]
    first, last = (1 + 4 * (frame - 1) for frame in (4, 4 + config.remembered_frames))
    assert changed[0] == first
    assert last - 4 < changed[-1] < last + 4


def test_sixteen_bits_change_little_and_what_comes_out_is_float32():
    exact, rough = make(dtype=torch.float32), make(dtype=torch.bfloat16)
    clip = latents(3).float()
    ours, state = rough.decode(clip)
    assert ours.dtype == torch.float32
    assert all(memory.dtype == torch.bfloat16 for memory in state.memories)
    assert (ours - exact.decode(clip)[0]).abs().mean() < 0.03


def test_names_and_size_are_the_published_ones():
    published = json.loads(KEYS.read_text())["maps"]["map_vae_to_diffusers"]
    with torch.device("meta"):
        ours = WanVAE().state_dict()
    assert ours.keys() == published.keys()
    assert sum(tensor.numel() for tensor in ours.values()) == 126_892_531


def test_the_published_file_and_the_pruned_one_load_by_their_own_width(tmp_path: Path):
    for width in (4, 6):
        vae = make(WanVAEConfig(width=width), torch.float32)
        torch.save(vae.state_dict(), tmp_path / "Wan2.1_VAE.pth")
        loaded = load_wan_vae(tmp_path / "Wan2.1_VAE.pth")
        assert loaded.config.width == width
        clip = latents(2).float()
        assert torch.equal(loaded.decode(clip)[0], vae.decode(clip)[0])


def test_a_configuration_chooses_the_decoder_and_its_number_format(tmp_path: Path):
    path = tmp_path / "lightvae.safetensors"
    save_file(make(WanVAEConfig(width=4), torch.float32).state_dict(), path)
    section = DecoderSection(kind="lightvae", weights=str(path), dtype="bfloat16")
    vae = load_decoder(section)
    assert isinstance(vae, WanVAE)
    assert vae.conv2.weight.dtype == torch.bfloat16
    with pytest.raises(WeightsError, match=r"lightvae\.safetensors"):
        load_decoder(DecoderSection(kind="taehv", weights=str(path)))


def test_shapes_that_cannot_be_are_named():
    vae = make()
    with pytest.raises(ValueError, match="multiples of 8"):
        vae.encode(torch.zeros(1, 5, 3, 12, 16))
    with pytest.raises(ValueError, match=r"\[B,F,16,h,w\]"):
        vae.decode(torch.zeros(1, 3, 4, 2, 2))
    _, state = vae.encode(video(5))
    with pytest.raises(ValueError, match="at least 4"):
        vae.encode(video(3), state)


def test_it_agrees_with_the_diffusers_library(tmp_path: Path):
    diffusers = pytest.importorskip("diffusers")
    sizes = {"base_dim": 4, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLWan(**sizes, temperal_downsample=[False, True, True]).eval()
    save_file(theirs.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    ours = load_wan_vae(tmp_path)
    clip, pixels = latents(3).float(), video(9).float()
    with torch.no_grad():
        raw = ours.denormalise(clip).transpose(1, 2)
        shown = theirs.decode(raw).sample.transpose(1, 2) * 0.5 + 0.5
        coded = theirs.encode(pixels.transpose(1, 2) * 2 - 1).latent_dist.mean.transpose(1, 2)
    torch.testing.assert_close(ours.decode(clip)[0], shown.clamp(0, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.encode(pixels)[0], ours.normalise(coded), atol=1e-5, rtol=0)
