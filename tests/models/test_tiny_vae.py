import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from streamer.errors import WeightsError
from streamer.models.tiny_vae import (
    STORYBOOK,
    TinyVAE,
    TinyVAEConfig,
    fit_basis,
    load_vae,
    save_vae,
    trim_published_growth,
)
from tests.conformance import run_case

CASES = Path(__file__).parents[3] / "shared" / "golden" / "open"

PUBLISHED = TinyVAEConfig(
    latent_channels=4, encoder_channels=(4, 4, 4, 4), decoder_channels=(8, 6, 4, 4)
)
SHORTCUT = TinyVAEConfig(
    patch_size=2,
    latent_channels=4,
    decoder_channels=(8, 8, 4, 4),
    blocks_per_stage=1,
    convs_per_block=2,
    growth="shuffle",
    frames_to_trim=0,
    is_normalised=True,
)
# In float64, other batch sizes may change the order of a sum, nothing else.
ROUNDING = 1e-12


def make(config: TinyVAEConfig) -> TinyVAE:
    """A network in which no weight is zero, so that every memory matters."""
    torch.manual_seed(0)
    vae = TinyVAE(config).double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.normal_(std=0.2)
        if config.is_normalised:
            vae.latent_mean.normal_()
            vae.latent_std.uniform_(0.5, 2.0)
    return vae.requires_grad_(False)


@pytest.fixture(params=[PUBLISHED, SHORTCUT], ids=["published", "shortcut"])
def vae(request: pytest.FixtureRequest) -> TinyVAE:
    return make(request.param)


@pytest.mark.parametrize("sizes", [[1] * 6, [2, 3, 1], [3, 3]])
def test_decoding_in_chunks_is_decoding_the_clip(vae: TinyVAE, sizes: list[int]):
    latents = torch.randn(2, 6, 4, 3, 4, dtype=torch.float64)
    clip, final = vae.decode_raw(latents)
    state, parts = None, []
    for chunk in latents.split(sizes, dim=1):
        pixels, state = vae.decode_raw(chunk, state)
        parts.append(pixels)
    assert (torch.cat(parts, 1) - clip).abs().max() < ROUNDING
    assert state is not None
    assert state.frames == final.frames == 6


@pytest.mark.parametrize("sizes", [[4, 4, 3], [8, 3]])
def test_encoding_in_chunks_is_encoding_the_clip(vae: TinyVAE, sizes: list[int]):
    side = vae.config.spatial_reduction
    video = torch.rand(2, 11, 3, side, 2 * side, dtype=torch.float64)
    clip, _ = vae.encode(video)
    state, parts = None, []
    for chunk in video.split(sizes, dim=1):
        latents, state = vae.encode(chunk, state)
        parts.append(latents)
    assert clip.shape == (2, 3, 4, 1, 2)
    assert (torch.cat(parts, 1) - clip).abs().max() < ROUNDING


def test_every_memory_is_used(vae: TinyVAE):
    """Forgetting any one memory changes the pictures, so the tests above test each of them."""
    latents = torch.randn(1, 2, 4, 3, 4, dtype=torch.float64)
    _, state = vae.decode_raw(latents[:, :1])
    right, _ = vae.decode_raw(latents[:, 1:], state)
    for index in range(len(state.memories)):
        memories = list(state.memories)
        memories[index] = torch.zeros_like(memories[index])
        wrong, _ = vae.decode_raw(latents[:, 1:], type(state)(tuple(memories), state.frames))
        assert (wrong - right).abs().max() > 1e-6


def test_the_trim_is_taken_once_per_stream():
    vae = make(PUBLISHED)
    latents = torch.randn(1, 3, 4, 2, 2, dtype=torch.float64)
    state, counts = None, []
    for chunk in latents.split(1, dim=1):
        pixels, state = vae.decode(chunk, state)
        counts.append(pixels.shape[1])
    assert counts == [1, 4, 4]


def test_the_storybook_makes_four_frames_of_each_latent_at_sixteen_times_the_size():
    vae = TinyVAE(STORYBOOK).eval()
    with torch.inference_mode():
        latents, _ = vae.encode(torch.rand(1, 8, 3, 32, 48))
        pixels, _ = vae.decode(latents)
    assert latents.shape == (1, 2, 64, 2, 3)
    assert pixels.shape == (1, 8, 3, 32, 48)
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_normalisation_is_undone_exactly():
    vae = make(SHORTCUT)
    raw = torch.randn(1, 2, 4, 2, 2, dtype=torch.float64)
    assert (vae.denormalise(vae.normalise(raw)) - raw).abs().max() < ROUNDING


def test_an_untrained_shuffle_decoder_shows_the_projection_onto_the_fitted_basis():
    vae = TinyVAE(replace(SHORTCUT, is_normalised=True)).double().eval()
    # Clips that lie in a space of as many dimensions as there are latent channels.
    directions = torch.randn(3, 4, 3, 16, 16, dtype=torch.float64)
    weights = torch.randn(2, 2, 2, 3, 3, dtype=torch.float64)
    cut = torch.einsum("bfhwk,ktcyx->bftchywx", weights, directions)
    clips = cut.reshape(2, 8, 3, 32, 48)
    fit_basis(vae, clips)
    latents, _ = vae.encode(clips)
    assert (vae.decode_raw(latents)[0] - clips).abs().max() < 1e-9
    assert latents.square().mean().item() == pytest.approx(1.0, rel=0.05)
    spread = latents.square().mean((0, 1, 3, 4))
    assert (spread.diff() < 1e-9).all()


def test_a_saved_autoencoder_is_the_same_when_loaded(tmp_path: Path):
    vae = make(SHORTCUT).float()
    save_vae(vae, tmp_path)
    latents = torch.randn(1, 2, 4, 2, 2)
    loaded = load_vae(tmp_path)
    assert loaded.config == SHORTCUT
    assert torch.equal(loaded.decode(latents)[0], load_vae(tmp_path).decode(latents)[0])
    # Only the memory format differs, so only the order of sums does.
    assert (loaded.decode(latents)[0] - vae.decode(latents)[0]).abs().max() < 1e-5


def test_a_folder_that_holds_no_autoencoder_is_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"vae\.json"):
        load_vae(tmp_path)
    save_vae(make(SHORTCUT), tmp_path)
    (tmp_path / "vae.json").write_text(json.dumps(asdict(PUBLISHED)))
    with pytest.raises(WeightsError, match=r"vae\.safetensors"):
        load_vae(tmp_path)


def test_older_published_files_keep_the_last_rows_of_wide_growth_kernels():
    vae = make(PUBLISHED)
    weights = vae.state_dict()
    name = next(n for n, layer in vae.named_modules() if type(layer).__name__ == "TGrow")
    own = weights[f"{name}.conv.weight"]
    older = dict(weights) | {f"{name}.conv.weight": torch.cat([torch.zeros_like(own), own])}
    assert torch.equal(trim_published_growth(older, vae)[f"{name}.conv.weight"], own)


def test_wrong_shapes_are_named():
    vae = make(SHORTCUT).float()
    with pytest.raises(ValueError, match="multiples of 16"):
        vae.encode(torch.rand(1, 4, 3, 24, 32))
    with pytest.raises(ValueError, match=r"\[B,F,4,h,w\]"):
        vae.decode(torch.rand(1, 2, 16, 2, 2))
    with pytest.raises(ValueError, match="they must agree"):
        TinyVAEConfig(decoder_strides=(1, 1, 2))


@pytest.mark.parametrize("name", ["f_taehv_tiny", "f2_taehv_fullwidth_procedural"])
def test_the_published_network_agrees_with_its_reference(name: str):
    path = CASES / f"{name}.safetensors"
    if not path.exists():
        pytest.skip("the recorded cases are not beside this checkout")
    verdict = run_case(path)
    assert verdict.passed, verdict
