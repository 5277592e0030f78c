"""The folded decoder against the plain one, which is its specification."""

import pytest
import torch
from torch import Tensor

from streamer.models.tiny_decoder import FoldedVAE
from streamer.models.tiny_vae import TAEW2_1, TinyVAE, TinyVAEConfig
from streamer.models.vae import DecoderState

CONFIGS = {
    "as the storybook": TinyVAEConfig(
        patch_size=2,
        latent_channels=4,
        decoder_channels=(16, 8, 8, 4),
        blocks_per_stage=1,
        convs_per_block=2,
        growth="shuffle",
        frames_to_trim=0,
        is_normalised=True,
    ),
    "otherwise": TinyVAEConfig(
        patch_size=1,
        latent_channels=3,
        decoder_channels=(8, 8, 4, 4),
        blocks_per_stage=2,
        convs_per_block=3,
        growth="shuffle",
        encoder_strides=(1, 2, 1),
        decoder_strides=(2, 1, 1),
        frames_to_trim=1,
        is_normalised=False,
    ),
}
# Shortcuts are added to weights before the product, not to its result: another order of the same
# sums, in float64.
ROUNDING = 1e-12


@pytest.fixture(params=CONFIGS)
def vae(request: pytest.FixtureRequest) -> TinyVAE:
    """No weight is zero, no channel like another, and pixels stay within what is not clamped."""
    torch.manual_seed(0)
    vae = TinyVAE(CONFIGS[request.param]).double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.normal_(std=0.05)
        vae.basis.normal_(std=0.05)
        vae.basis_mean.normal_(0.5, 0.05)
        if vae.config.is_normalised:
            vae.latent_mean.normal_()
            vae.latent_std.uniform_(0.5, 2.0)
    return vae.requires_grad_(False)


def latents_of(vae: TinyVAE, batch: int, frames: int) -> Tensor:
    channels = vae.config.latent_channels
    return torch.randn(batch, frames, channels, 3, 4, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("sizes", [[5], [1, 3, 1]])
def test_folded_pictures_are_the_plain_ones_chunk_by_chunk(
    vae: TinyVAE, batch: int, sizes: list[int]
):
    folded, states = FoldedVAE(vae), [None, None]
    for chunk in latents_of(vae, batch, sum(sizes)).split(sizes, dim=1):
        wanted, states[0] = vae.decode(chunk, states[0])
        pixels, states[1] = folded.decode(chunk, states[1])
        assert pixels.shape == wanted.shape
        assert ((wanted > 0) & (wanted < 1)).float().mean() > 0.9  # a clamped pixel tells nothing
        assert (pixels - wanted).abs().max() < ROUNDING
        for mine, theirs in zip(states[1].memories, states[0].memories, strict=True):
            assert (mine - theirs).abs().max() < ROUNDING
        assert states[1].frames == states[0].frames


@torch.no_grad()
def test_pixels_are_clamped(vae: TinyVAE):
    pixels, _ = FoldedVAE(vae).decode(30 * latents_of(vae, 1, 2))
    assert pixels.min() == 0.0
    assert pixels.max() == 1.0


@torch.no_grad()
def test_a_state_is_not_changed_by_what_is_decoded_after_it(vae: TinyVAE):
    """Work in place must not reach into what a stream remembers, or was given."""
    folded = FoldedVAE(vae)
    _, state = folded.decode(latents_of(vae, 1, 2))
    later = latents_of(vae, 1, 2)
    before = [memory.clone() for memory in state.memories], later.clone()
    first, _ = folded.decode(later, state)
    again, _ = folded.decode(later, state)
    assert torch.equal(first, again)
    assert all(map(torch.equal, state.memories, before[0]))
    assert torch.equal(later, before[1])


@torch.no_grad()
def test_pictures_lie_ready_to_be_copied_out(vae: TinyVAE):
    pixels, _ = FoldedVAE(vae).decode(latents_of(vae, 1, 2))
    assert pixels[0].permute(0, 2, 3, 1).is_contiguous()


def test_with_gradients_it_is_the_plain_decoder(vae: TinyVAE):
    latents = latents_of(vae, 1, 2).requires_grad_()
    pixels, _ = FoldedVAE(vae).decode(latents)
    pixels.sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().max() > 0


@torch.no_grad()
def test_what_does_not_fit_is_refused_as_by_the_plain_decoder(vae: TinyVAE):
    folded, latents = FoldedVAE(vae), latents_of(vae, 1, 2)
    with pytest.raises(ValueError, match="need \\[B,F,"):
        folded.decode(latents[:, :, :1])
    with pytest.raises(ValueError, match="the state holds 1 memories"):
        folded.decode(latents, DecoderState((latents,), 2))


def test_a_decoder_that_grows_otherwise_is_refused():
    with pytest.raises(ValueError, match="only 'shuffle' decoders"):
        FoldedVAE(TinyVAE(TAEW2_1))
