"""Random parts are real parts: right shapes, finite numbers, the same ones every time."""

import pytest
import torch

from streamer.config import DecoderSection
from streamer.engine.drawn import DrawnText, draw_decoder

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "num_pictures"), [("taehv", 9), ("lightvae", 9)])
def test_drawn_decoders_make_pictures(kind: str, num_pictures: int):
    section = DecoderSection(kind=kind, weights="/nowhere")  # type: ignore[arg-type]
    vae, again = (draw_decoder(section, CPU, torch.float32) for _ in range(2))
    latents = torch.randn(1, 3, 16, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        pictures, state = vae.decode(latents)
        repeated, _ = again.decode(latents)
    assert pictures.shape == (1, num_pictures, 3, 32, 32)
    assert pictures.isfinite().all()
    assert pictures.std() > 0
    assert torch.equal(pictures, repeated)
    assert state.frames == 3


def test_drawn_text_depends_on_the_text_only():
    text = DrawnText(5, 8)
    both = text.encode(["sea", "hills"])
    assert both.shape == (2, 5, 8)
    assert torch.equal(both[1:], text.encode(["hills"]))
    assert not torch.equal(both[0], both[1])
