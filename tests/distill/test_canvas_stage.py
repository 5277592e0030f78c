"""The canvas learns the mean picture of each text, and a transformer takes it over."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from streamer.distill.canvas_stage import CanvasStage, CanvasStageConfig, load_canvas
from streamer.distill.shards import LatentClips
from streamer.distill.trainer import Trainer, TrainerConfig
from streamer.errors import ConfigError
from streamer.models.canvas import TextCanvas
from streamer.models.context import FullContext
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

SIZES = TransformerConfig(
    width=16,
    num_heads=2,
    ffn_width=32,
    num_layers=1,
    in_channels=2,
    out_channels=2,
    text_width=6,
    text_length=3,
    freq_width=16,
    learned_grid=(2, 3),
    text_canvas=24,
    canvas_frames=3,
)
TEXTS = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
MEANS = torch.randn(2, 3, 2, 4, 6, generator=torch.Generator().manual_seed(2))


def beginnings(count: int = 256) -> LatentClips:
    """Two texts, each with its mean block under noise."""
    which = torch.arange(count) % 2
    noise = torch.randn(count, 3, 2, 4, 6, generator=torch.Generator().manual_seed(3))
    latents = MEANS[which] + 0.3 * noise
    text = TEXTS[which][:, None].expand(-1, 2, -1, -1)
    zeros = torch.zeros(count, dtype=torch.long)
    return LatentClips(latents.half(), text.half(), zeros, zeros == 0)


def new_stage(start: Path | None = None) -> CanvasStage:
    clips = beginnings()
    config = CanvasStageConfig(beginnings=64, caption_dropout=0.2, lr=0.01)
    return CanvasStage(SIZES, clips, clips, torch.zeros(3, 6), config, start=start)


def test_it_learns_the_mean_block_of_each_text_and_of_none(tmp_path: Path):
    stage = new_stage()
    config = TrainerConfig(out=tmp_path, max_steps=250, warmup_steps=5, ema_decay=0.9)
    trainer = Trainer(stage, config)
    trainer.train()
    assert stage.sample_sheet(tmp_path / "none.png")["held_out_loss"] < 0.1
    network = CausalWanTransformer(SIZES)
    network.initialise()
    load_canvas(network, tmp_path / "export")
    wanted = network.cut(MEANS)
    with torch.no_grad():
        learned = network.text_canvas(TEXTS)
        nothing = network.text_canvas(torch.zeros(1, 3, 6))
    assert (learned - wanted).abs().mean() < 0.15
    assert (nothing - wanted.mean(0)).abs().mean() < 0.15


def test_a_new_canvas_has_no_effect_and_a_trained_one_tells_texts_apart():
    torch.manual_seed(0)
    network = CausalWanTransformer(SIZES)
    network.initialise()
    torch.nn.init.normal_(network.head.head.weight)
    plain = CausalWanTransformer(replace(SIZES, text_canvas=0))
    plain.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("text_canvas.")}
    )
    latents, time = torch.randn(1, 6, 2, 4, 6), torch.full((1,), 900.0)
    with torch.no_grad():
        text = network.encode_text(TEXTS[:1])
        assert text.canvas is not None
        before = network(latents, time, text, FullContext())
        expected = plain(latents, time, plain.encode_text(TEXTS[:1]), FullContext())
        torch.testing.assert_close(before, expected)
        torch.nn.init.normal_(network.text_canvas.tokens.weight)
        text.copy_(network.encode_text(TEXTS[:1]))
        assert not torch.allclose(network(latents, time, text, FullContext()), before)


def test_a_figure_hides_what_is_behind_it():
    """The same figure before two places: where it covers, the places no longer differ."""
    torch.manual_seed(1)
    canvas = TextCanvas(4, 16, 2, 1, (2, 2), (2, 2), 8)
    canvas.initialise()
    place, figure = torch.randn(2, 4, 8), torch.randn(8)
    text = torch.tensor([[a, 1 - a, b, 1 - b] for a in (0, 1) for b in (0, 1)]).float()
    wanted = torch.stack([place[a] for a in (0, 1) for _ in (0, 1)])
    wanted[1::2, 2] = figure
    optimiser = torch.optim.Adam(canvas.picture.parameters(), lr=3e-3)
    for _ in range(400):
        optimiser.zero_grad()
        canvas.loss(text[:, :, None], wanted).backward()
        optimiser.step()
    with torch.no_grad():
        made = canvas(text[:, :, None])
        canvas.picture.hide.zero_()
        transparent = canvas(text[:, :, None])
    torch.testing.assert_close(made, wanted, atol=0.05, rtol=0)
    behind = [(pictures[3, 2] - pictures[1, 2]).abs().mean() for pictures in (made, transparent)]
    assert behind[1] > 0.5 > 10 * behind[0]


def test_it_goes_on_from_an_earlier_export(tmp_path: Path):
    sheet = tmp_path / "none.png"
    stage = new_stage()
    Trainer(stage, TrainerConfig(out=tmp_path, max_steps=60, warmup_steps=5)).train()
    anew, resumed = (new_stage(start).sample_sheet(sheet) for start in (None, tmp_path / "export"))
    assert resumed["held_out_loss"] == pytest.approx(
        stage.sample_sheet(sheet)["held_out_loss"], rel=0.01
    )
    assert resumed["held_out_loss"] < 0.5 * anew["held_out_loss"]


def test_a_network_that_predicts_clean_latents_begins_with_its_canvas():
    """At every noise level, what it calls clean is the canvas through its gate."""
    torch.manual_seed(0)
    network = CausalWanTransformer(replace(SIZES, predicts_clean=True))
    network.initialise()
    latents, sigma = torch.randn(2, 6, 2, 4, 6), torch.tensor([[0.3, 1.0], [0.7, 0.1]])
    text = network.encode_text(TEXTS)
    with torch.no_grad():
        flow = network(latents, 1000 * sigma, text, FullContext())
        clean = latents - sigma.repeat_interleave(3, 1)[:, :, None, None, None] * flow
    assert text.canvas is not None
    wanted = torch.sigmoid(torch.tensor(2.0)) * network.uncut(text.canvas, 2, 3).repeat(
        1, 2, 1, 1, 1
    )
    torch.testing.assert_close(clean, wanted)


def test_a_pass_over_part_of_a_block_finds_the_first_frames_of_the_canvas():
    torch.manual_seed(0)
    network = CausalWanTransformer(replace(SIZES, predicts_clean=True))
    network.initialise()
    latents, time = torch.randn(1, 4, 2, 4, 6), torch.full((1,), 500.0)
    text = network.encode_text(TEXTS[:1])
    with torch.no_grad():
        clean = latents - 0.5 * network(latents, time, text, FullContext())
    assert text.canvas is not None
    canvas = network.uncut(text.canvas, 2, 3)
    wanted = torch.sigmoid(torch.tensor(2.0)) * canvas[:, [0, 1, 2, 0]]
    torch.testing.assert_close(clean, wanted)


def test_a_model_without_a_canvas_is_refused(tmp_path: Path):
    sizes = replace(SIZES, text_canvas=0)
    with pytest.raises(ConfigError, match="no text_canvas"):
        CanvasStage(sizes, beginnings(), beginnings(), torch.zeros(3, 6))
    with pytest.raises(ConfigError, match="no text_canvas"):
        load_canvas(CausalWanTransformer(sizes), tmp_path)
    with pytest.raises(ValueError, match="learned_grid"):
        replace(SIZES, learned_grid=None)
