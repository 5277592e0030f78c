from dataclasses import replace
from pathlib import Path

import pytest
import torch

from streamer.distill.trainer import Trainer, TrainerConfig
from streamer.distill.vae_stage import LATENT_NOISE, VAEStage, VAEStageConfig, draw_latent_noise
from streamer.models.tiny_vae import TinyVAEConfig, load_vae

SIZES = TinyVAEConfig(
    patch_size=2,
    latent_channels=4,
    decoder_channels=(8, 8, 4, 4),
    blocks_per_stage=1,
    convs_per_block=1,
    growth="shuffle",
    frames_to_trim=0,
    is_normalised=True,
)


class Stripes:
    """Clips of hard-edged bars in random places: what four components cannot show."""

    def clips(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        edges = torch.randint(4, 60, (3, 1, 1, 1, 1), generator=generator)
        bars = torch.arange(64) < edges
        return (bars.expand(3, 8, 3, 64, 64) * 255).to(torch.uint8)


class Noise:
    """Clips of which each component shows but a little."""

    def clips(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        coarse = torch.randint(256, (6, 8, 3, 16, 16), generator=generator, dtype=torch.uint8)
        return coarse.repeat_interleave(4, 3).repeat_interleave(4, 4)


def new_stage(clips: Stripes | Noise | None = None) -> VAEStage:
    config = VAEStageConfig(crop_px=32, crops=3, basis_pools=2, adam_lr=0.01)
    return VAEStage(clips or Stripes(), config, SIZES)


def test_the_decoder_learns_what_the_linear_map_leaves_blurred(tmp_path: Path):
    trainer = Trainer(new_stage(), TrainerConfig(out=tmp_path, max_steps=40, warmup_steps=2))
    losses = [trainer.train_step()["loss"] for _ in range(40)]
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


def test_the_export_makes_the_same_pictures(tmp_path: Path):
    stage = new_stage()
    stage.export(tmp_path)
    loaded = load_vae(tmp_path)
    video = Stripes().clips(5).float() / 255
    with torch.no_grad():
        expected = stage.vae.decode(stage.vae.encode(video)[0])[0]
        made = loaded.decode(loaded.encode(video)[0])[0]
    torch.testing.assert_close(made, expected, atol=5e-3, rtol=0)


def test_a_sheet_scores_held_out_clips(tmp_path: Path):
    scores = new_stage().sample_sheet(tmp_path / "sheet.png")
    assert 5 < scores["held_out_worst_db"] <= scores["held_out_psnr_db"] < 60


def test_half_of_the_latents_noise_is_shared_by_the_positions_of_a_token():
    noise = draw_latent_noise((64, 3, 8, 10, 16), torch.Generator().manual_seed(0))
    assert noise.std((1, 2, 3, 4)).max() < 1.1 * LATENT_NOISE
    inside = (noise[..., 0::2] * noise[..., 1::2]).mean() / noise.square().mean()
    across = (noise[..., 1:-1:2] * noise[..., 2::2]).mean() / noise.square().mean()
    assert abs(inside - 0.5) < 0.05
    assert abs(across) < 0.05
    assert draw_latent_noise((1, 2, 4, 5, 3), torch.Generator()).shape == (1, 2, 4, 5, 3)


def test_a_run_that_goes_on_keeps_the_latents(tmp_path: Path):
    first = new_stage()
    first.export(tmp_path)
    second = VAEStage(Stripes(), VAEStageConfig(crop_px=32, crops=1), SIZES, seed=9, start=tmp_path)
    video = Stripes().clips(5).float() / 255
    expected = load_vae(tmp_path).encode(video)[0]
    torch.testing.assert_close(second.vae.encode(video)[0], expected)
    assert all(parameter.requires_grad for parameter in second.vae.decoder.parameters())


def test_a_run_with_more_channels_keeps_the_first_and_makes_the_same_pictures_at_first(
    tmp_path: Path,
):
    first = new_stage(Noise())
    for parameter in first.vae.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    first.export(tmp_path)
    config = VAEStageConfig(crop_px=32, crops=1, basis_pools=2)
    wider = replace(SIZES, latent_channels=6)
    second = VAEStage(Noise(), config, wider, seed=9, start=tmp_path)
    earlier, video = load_vae(tmp_path), Noise().clips(5).float() / 255
    with torch.no_grad():
        old, new = earlier.encode(video)[0], second.vae.encode(video)[0]
        torch.testing.assert_close(new[:, :, :4], old)
        assert new[:, :, 4:].std() > 0.1
        silent = torch.cat([old, torch.zeros_like(new[:, :, 4:])], 2)
        torch.testing.assert_close(second.vae.decode(silent)[0], earlier.decode(old)[0])
        linear = [
            (vae.decode_linear(latents) - video).square().mean()
            for vae, latents in ((earlier, old), (second.vae, new))
        ]
    assert linear[1] < linear[0]
    with pytest.raises(ValueError, match="cannot go on"):
        VAEStage(Noise(), config, replace(SIZES, latent_channels=3), start=tmp_path)


def test_faults_count_more_where_the_linear_map_is_far_off():
    stage = new_stage()
    video = Stripes().clips(5).float() / 255
    latents = stage.vae.encode(video)[0]
    focus = stage._focus(latents, video)
    off = (stage.vae.decode_linear(latents) - video).abs().mean(2, keepdim=True)
    assert focus.min() >= 1
    assert focus.max() <= 1 + stage.config.focus
    assert focus[off > 0.2].mean() > 1.5 * focus[off < 0.005].mean()
