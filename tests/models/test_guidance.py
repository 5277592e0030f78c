"""Guidance: two flows as one batch, each over its own history; and half-precision weights."""

from __future__ import annotations

import pytest
import torch

from streamer.models.cache import RingLayout
from streamer.models.guidance import FlowModel
from streamer.models.rolling import RollingContext
from streamer.models.sampler import DenoisingSteps, denoise_block
from tests.models.published import CONFIG, tiny

STEPS = DenoisingSteps((1000.0, 500.0), (0.999, 0.5))


def context(batch: int, dtype: torch.dtype = torch.float32) -> RollingContext:
    layout = RingLayout(6, 0, 2)
    return RollingContext(CONFIG.cache_shape(4, 4, batch), layout, dtype=dtype)


def embeds(seed: int, rows: int = 3) -> torch.Tensor:
    return torch.randn(1, rows, 16, generator=torch.Generator().manual_seed(seed))


def noise(block: int):
    def draw(number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(100 * block + number)
        return torch.randn(1, 2, 16, 4, 4, generator=generator)

    return draw


@torch.no_grad()
def two_blocks(model: FlowModel, text, place: RollingContext) -> torch.Tensor:
    blocks = [denoise_block(model, STEPS, noise(block), text, place) for block in range(2)]
    return torch.cat(blocks, dim=1)


@torch.no_grad()
def test_guidance_equals_two_separate_passes_over_separate_histories():
    """The same blocks by hand: two contexts, two forward passes a step."""
    transformer, scale = tiny(), 3.5
    prompt, negative = embeds(1), embeds(2)
    guided = FlowModel(transformer, scale)
    made = two_blocks(guided, guided.encode_text(prompt, negative), context(2))

    plain = FlowModel(transformer)
    texts = plain.encode_text(prompt), plain.encode_text(negative)
    places = context(1), context(1)

    class ByHand:
        """Both contexts as one, for the sampler."""

        def begin(self, frames: int) -> None:
            for place in places:
                place.begin(frames)

        def commit(self) -> None:
            for place in places:
                place.commit()

    def by_hand(latents, timestep, _text, _context):
        first, second = (
            plain(latents, timestep, text, place) for text, place in zip(texts, places, strict=True)
        )
        return second + scale * (first - second)

    both = ByHand()
    wanted = torch.cat(
        [denoise_block(by_hand, STEPS, noise(block), texts[0], both) for block in range(2)], dim=1
    )
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-5)
    unguided = two_blocks(plain, texts[0], context(1))
    assert (made - unguided).abs().max() > 0.05


@torch.no_grad()
def test_a_scale_of_one_asks_once_and_needs_no_negative_prompt():
    model = FlowModel(tiny())
    assert model.batch == 1
    assert model.encode_text(embeds(1)).k.shape[1] == 1


@torch.no_grad()
def test_texts_of_different_lengths_are_padded_with_zeros():
    model = FlowModel(tiny(), 2.0)
    short = model.encode_text(embeds(1), embeds(2, rows=1))
    padded = torch.cat([embeds(2, rows=1), torch.zeros(1, 2, 16)], dim=1)
    assert torch.equal(short.k, model.encode_text(embeds(1), padded).k)


def test_a_missing_negative_prompt_is_named():
    with pytest.raises(ValueError, match=r"scale 2\.0 needs a negative prompt"):
        FlowModel(tiny(), 2.0).encode_text(embeds(1))


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_half_precision_weights_make_nearly_the_same_block(scale: float):
    """The latents stay float32 in the sampler; bfloat16 keeps eight bits of each number."""
    exact, half = FlowModel(tiny(), scale), FlowModel(tiny().bfloat16(), scale)
    assert half.dtype == torch.bfloat16
    made = two_blocks(half, half.encode_text(embeds(1), embeds(2)), context(half.batch, half.dtype))
    wanted = two_blocks(exact, exact.encode_text(embeds(1), embeds(2)), context(exact.batch))
    assert made.dtype == torch.float32
    assert (made - wanted).abs().mean() < 0.02 * wanted.abs().mean() * scale
