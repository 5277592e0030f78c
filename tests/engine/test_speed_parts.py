"""Kernels, eight-bit numbers, recorded passes and decoding, as the engine puts them together."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import streamer_kernels.choose
import streamer_kernels.memory
import torch
from streamer_kernels import load_ops
from torch import Tensor

from streamer.config import Config
from streamer.driver import StreamDriver
from streamer.engine import diffusion
from streamer.engine.diffusion import DiffusionModel
from streamer.engine.handle import Engine
from streamer.engine.operations import choose_operations
from streamer.engine.quality import check_eight_bit
from streamer.errors import ConfigError
from streamer.models.flops import pass_flops
from streamer.stream import FrameBlock, Prompt, StreamSpec
from tests.engine.planar_worker import run_planar_worker
from tests.engine.tiny_model import make_tiny_config

SPEC = StreamSpec("tiny", 7, 64, 64, 16)


def changed(config: Config, **model: Any) -> Config:
    assert config.model is not None
    return config.model_copy(update={"model": config.model.model_copy(update=model)})


def load(config: Config) -> DiffusionModel:
    return DiffusionModel(config, lambda part, stage: None)


def play(model: DiffusionModel, count: int) -> list[FrameBlock]:
    stream = model.open(SPEC)
    prompt = Prompt("a", "red balloon", None)
    blocks = [stream.next_block([prompt] if index == 0 else []) for index in range(count)]
    stream.close()
    return blocks


def test_a_processor_computes_with_the_references(tiny_model: DiffusionModel):
    assert tiny_model.ops == load_ops("torch")
    assert tiny_model.chosen == (("all", "torch"),)
    assert all(block.self_attn.joined is None for block in tiny_model.transformer.blocks)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler warns of itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch's compiler needs one for C++")
def test_pytorchs_compiler_makes_the_same_pictures(tiny_config: Config, tiny_model: DiffusionModel):
    compiled = load(changed(tiny_config, kernels="compile"))
    assert compiled.chosen == (("all", "torch-compile"),)
    for mine, wanted in zip(play(compiled, 2), play(tiny_model, 2), strict=True):
        np.testing.assert_allclose(mine.latents, wanted.latents, atol=1e-3)


def test_triton_on_a_processor_is_refused_with_a_way_out(tiny_config: Config):
    with pytest.raises(ConfigError, match="runs on CUDA devices; the device is 'cpu'; choose 'aut"):
        load(changed(tiny_config, kernels="triton", device="cpu"))


def test_on_a_gpu_the_kernels_are_measured_at_the_steady_shape_and_told(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    asked: dict[str, Any] = {}

    def choose_ops(shape: Any, device: torch.device, **options: Any) -> tuple[Any, list[Any]]:
        asked.update(shape=shape, device=device, **options)
        return load_ops("torch"), [SimpleNamespace(fields=("attend", "attend_views"), name="fast")]

    monkeypatch.setattr(streamer_kernels.choose, "choose_ops", choose_ops)
    monkeypatch.setattr(streamer_kernels.memory, "default_path", lambda: Path("kept.json"))
    assert tiny_config.model is not None
    with caplog.at_level(logging.INFO):
        _, chosen = choose_operations(
            tiny_config, tiny_config.model, torch.device("cuda"), (16, 16)
        )
    section = tiny_config.stream
    assert asked["shape"].num_queries == 3 * 64
    assert asked["shape"].num_valid == section.window * 64
    assert asked["shape"].num_sink == section.sink * 64
    assert (asked["dtype"], asked["path"]) == (torch.float32, Path("kept.json"))
    assert chosen == (("attend+attend_views", "fast"),)
    assert "op=attend+attend_views backend=fast" in caplog.text


def test_memory_is_counted_from_the_first_picture_on(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
):
    """On a GPU the references that kernels are compared with take more than any stream."""
    told: list[str] = []
    monkeypatch.setattr(diffusion, "forget_peak", lambda device: told.append("memory"))
    DiffusionModel(tiny_config, lambda part, stage: told.append(stage))
    assert told[told.index("memory") :] == ["memory", "making a first picture", "ready"]
    assert "choosing kernels" in told


def test_figures_are_those_of_the_steady_state(tiny_model: DiffusionModel):
    figures = tiny_model.measure()
    # 64x64 pixels are 2x2 tokens a latent frame: 3 frames ask, 9 are seen.
    assert figures.pass_flops == pass_flops(tiny_model.transformer.config, 12, 36)
    assert figures.matrix_flops_per_s > 1e8
    assert figures.copy_bytes_per_s > 1e7
    assert figures.peak_bytes > 2**24
    assert (figures.num_passes, figures.operations) == (3, (("all", "torch"),))


class Rerun:
    """Stands in for CUDA graphs: replays a call by making it again."""

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        result = torch.empty_like(call())
        return (lambda: (result.copy_(call()), None)[1]), result


def test_recorded_passes_outlive_their_stream_and_make_the_same_pictures(tiny_config: Config):
    plain, recorded = load(tiny_config), load(tiny_config)
    recorded.recorder = Rerun()
    wanted = play(plain, 5)
    first = play(recorded, 5)
    assert recorded.num_graphs >= 3
    seat = recorded._seat
    assert seat is not None
    again = play(recorded, 5)
    assert recorded._seat is seat
    for block, other, right in zip(first, again, wanted, strict=True):
        np.testing.assert_array_equal(block.frames, right.frames)
        np.testing.assert_array_equal(other.frames, right.frames)
        np.testing.assert_array_equal(other.latents, right.latents)


def test_two_streams_never_share_a_seat(tiny_config: Config):
    model = load(tiny_config)
    model.recorder = Rerun()
    play(model, 4)
    one, two = model.open(SPEC), model.open(SPEC)
    assert one._seat is not two._seat
    assert one._context.k.data_ptr() != two._context.k.data_ptr()


def test_without_recorded_passes_a_closed_stream_leaves_no_memory(tiny_config: Config):
    model = load(tiny_config)
    play(model, 2)
    assert model._seat is None


def test_times_of_every_pass_are_told(tiny_model: DiffusionModel):
    timings = play(tiny_model, 2)[-1].timings
    assert len(timings.passes_ms) == 3
    assert all(each > 0 for each in timings.passes_ms)
    assert timings.denoise_ms == pytest.approx(sum(timings.passes_ms))
    assert timings.total_ms >= timings.denoise_ms + timings.decode_ms


def test_eight_bit_pictures_are_compared_and_near(tmp_path: Path):
    config = make_tiny_config(tmp_path, num_layers=4)
    plain, eight = load(config), load(changed(config, eight_bit="int8", min_psnr_db=25.0))
    assert plain.psnr_db is None
    assert eight.psnr_db is not None
    assert 25.0 < eight.psnr_db < 120.0
    frames, right = (play(model, 1)[0].frames.astype(float) for model in (eight, plain))
    assert not np.array_equal(frames, right)
    assert np.abs(frames - right).mean() < 8.0


@pytest.mark.parametrize(("kind", "least_db"), [("int8", 35.0), ("fp8", 25.0)])
def test_a_cache_of_codes_is_compared_and_near(
    tiny_config: Config, tiny_model: DiffusionModel, kind: str, least_db: float
):
    coded = load(changed(tiny_config, eight_bit_cache=kind, min_psnr_db=least_db))
    assert coded.psnr_db is not None
    assert least_db < coded.psnr_db < 120.0
    rings = [model.new_context().ring for model in (coded, tiny_model)]
    assert rings[0].k.element_size() == 1
    assert rings[0].num_bytes < 0.5 * rings[1].num_bytes
    found, wanted = play(coded, 5), play(tiny_model, 5)
    assert not np.array_equal(found[4].latents, wanted[4].latents)
    assert np.abs(found[0].frames.astype(float) - wanted[0].frames).mean() < 4.0


def test_a_cache_of_codes_that_suffers_is_refused(tiny_config: Config):
    with pytest.raises(ConfigError, match=r"with model.eight_bit_cache the pictures are .* leave"):
        load(changed(tiny_config, eight_bit_cache="int8", min_psnr_db=99.0))


def test_the_kernels_are_measured_on_the_ring_that_they_will_read(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
):
    shapes: list[Any] = []

    def choose_ops(shape: Any, device: torch.device, **options: Any) -> tuple[Any, list[Any]]:
        shapes.append(shape)
        return load_ops("torch"), []

    monkeypatch.setattr(streamer_kernels.choose, "choose_ops", choose_ops)
    for kind in (None, "int8"):
        config = changed(tiny_config, eight_bit_cache=kind)
        assert config.model is not None
        choose_operations(config, config.model, torch.device("cuda"), (16, 16))
    assert [shape.ring for shape in shapes] == [None, "int8"]


def test_eight_bit_pictures_that_suffer_are_refused(tmp_path: Path):
    config = make_tiny_config(tmp_path, num_layers=4)
    with pytest.raises(ConfigError, match=r"dB from those in full precision, at least 99 are want"):
        load(changed(config, eight_bit="int8", min_psnr_db=99.0))


def test_fp8_on_an_older_gpu_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    message = (
        r"model.eight_bit_cache is 'fp8', which needs compute capability 8.9; this GPU has 8.0"
    )
    with pytest.raises(ConfigError, match=message):
        check_eight_bit("wan", "eight_bit_cache", "fp8", torch.device("cuda"))
    check_eight_bit("wan", "eight_bit", "int8", torch.device("cuda"))
    check_eight_bit("wan", "eight_bit", "fp8", torch.device("cpu"))


def test_random_weights_need_no_file_and_make_pictures(tiny_config: Config):
    assert tiny_config.model is not None
    model = tiny_config.model
    lost = model.transformer.model_copy(update={"weights": ["/nowhere/t.safetensors"]})
    text = model.text.model_copy(update={"weights": "/nowhere/x.safetensors"})
    drawn = load(changed(tiny_config, transformer=lost, text=text, random_weights=True))
    blocks = play(drawn, 2)
    assert blocks[0].frames.shape == (12, 64, 64, 3)
    assert np.isfinite(blocks[1].latents).all()
    assert not np.array_equal(blocks[0].latents, blocks[1].latents)


def test_a_processor_hands_pictures_over_as_rgb(tiny_config: Config):
    model = DiffusionModel(tiny_config, lambda part, stage: None, hands_planes=True)
    assert model.to_planes is None
    assert play(model, 1)[0].frames.shape == (12, 64, 64, 3)


async def test_planes_come_through_the_worker(tiny_config: Config, tiny_model: DiffusionModel):
    engine = Engine(tiny_config, entry=run_planar_worker)
    try:
        await engine.start()
        driver = StreamDriver(engine, SPEC, tiny_config.stream)
        blocks = [await driver.advance([Prompt("a", "red balloon")]), await driver.advance()]
    finally:
        await engine.close()
    assert [block.first_frame for block in blocks] == [0, 12]
    for block, right in zip(blocks, play(tiny_model, 2), strict=True):
        wanted = load_ops("torch").to_i420(torch.from_numpy(right.frames))
        assert block.frames.shape == (12, 96, 64)
        # Another process may round a sum the other way.
        assert np.abs(block.frames.astype(int) - wanted.numpy()).max() <= 1
