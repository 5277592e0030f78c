"""Benchmarks run through a real worker, briefly, and through a fake one in virtual time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from streamer.bench import run
from streamer.bench.settings import Settings
from streamer.cli import main
from streamer.config import Config, load_config
from streamer.engine.figures import ModelFigures
from streamer.errors import ConfigError
from streamer.stream import BlockTimings, Event, FrameBlock, StreamSpec
from tests.engine.tiny_model import make_tiny_config


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(make_tiny_config(tmp_path).model_dump_json())
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def test_a_real_model_is_measured_by_stages(tiny: Path):
    ended = invoke("--config", tiny, "--steps", "1", "--blocks", "6", "--json")
    assert ended.exit_code == 0, ended.output
    made = json.loads(ended.stdout)
    assert (made["blocks"], made["fill_blocks"], made["frames_per_block"]) == (6, 3, 12)
    assert made["setting"] == "steps=1"
    stages = made["stages"]
    assert len(stages["steps_ms"]) == 1
    assert all(stages[name] > 0 for name in ("clean_pass_ms", "decode_ms", "encode_ms", "text_ms"))
    assert made["steady_fps"] == pytest.approx(12_000 / made["block_ms_p50"], rel=0.05)
    assert made["block_ms_p50"] <= made["block_ms_p90"] <= made["block_ms_p99"]
    assert 0 < made["matrix_share"] < 1
    assert made["matrix_tflops"] > 0
    assert made["verdict"].endswith(".")


def test_two_settings_by_turns_give_a_ratio(tiny: Path):
    ended = invoke("--config", tiny, "--compare", "", "steps=1,eight_bit=int8", "--blocks", "5",
                   "--random-weights", "--json")  # fmt: skip
    assert ended.exit_code == 0, ended.output
    made = json.loads(ended.stdout)
    first, second = made["first"], made["second"]
    assert (first["setting"], second["setting"]) == (
        "random_weights=True",
        "steps=1,eight_bit=int8,random_weights=True",
    )
    assert made["ratio"] == pytest.approx(second["steady_fps"] / first["steady_fps"], abs=1e-3)
    assert first["psnr_db"] is None


def test_fused_passes_are_compared_and_told_apart(tiny: Path):
    ended = invoke("--config", tiny, "--compare", "fused=false", "fused=true", "--blocks", "5",
                   "--json")  # fmt: skip
    assert ended.exit_code == 0, ended.output
    plain, fused = (json.loads(ended.stdout)[name]["stages"] for name in ("first", "second"))
    assert (len(plain["steps_ms"]), len(fused["steps_ms"])) == (2, 1)
    assert (plain["is_fused"], fused["is_fused"]) == (False, True)
    text = invoke("--config", tiny, "--fused", "--blocks", "5")
    assert "clean pass with the next block's first step" in text.output


def test_a_real_long_stream_is_compared_with_its_beginning():
    ended = invoke("--config", "pattern", "--flat", "--blocks", "40", "--json")
    assert ended.exit_code == 0, ended.output
    made = json.loads(ended.stdout)
    assert made["blocks"] == 40
    assert made["early_ms"] > 0
    assert 10 < made["early_mb"] <= made["late_mb"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "pattern", "--window", "90", "--blocks", "5"], "at least 32 are needed"),
        (["--config", "pattern", "--flat", "--compare", "a", "b"], "ask one at a time"),
        (["--config", "pattern", "--flat", "--within", "9"], "leave --within out"),
        (["--config", "pattern", "--compare", "fps=3", ""], "'fps=3' cannot be read"),
    ],
)
def test_impossible_wishes_are_one_sentence(arguments: list[str], says: str):
    ended = invoke(*arguments)
    assert ended.exit_code == 2
    assert says in ended.output


class Clock:
    """Time that passes only when a block is made.  free_at: when the device, which all share, has
    done what it was given."""

    def __init__(self) -> None:
        self.now = self.free_at = 0.0

    def perf_counter(self) -> float:
        return self.now


class FakeEngine:
    """Blocks that cost what `costs_s` says, the last cost from then on.

    part_behind: of a block's work, what is still under way when it is handed over, as on a GPU.
    """

    is_ready = True

    def __init__(
        self,
        clock: Clock,
        costs_s: Sequence[float],
        peaks: Sequence[int],
        part_behind: float = 0.0,
    ) -> None:
        self.clock, self.costs, self.peaks = clock, list(costs_s), list(peaks)
        self.part_behind = part_behind

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def open(self, spec: StreamSpec) -> FakeStream:
        return FakeStream(self)

    async def settle(self) -> None:
        self.clock.now = max(self.clock.now, self.clock.free_at)

    async def measure(self) -> ModelFigures:
        peak = self.peaks.pop(0) if len(self.peaks) > 1 else self.peaks[0]
        return ModelFigures(
            "fake", pass_flops=1e9, num_passes=1, matrix_flops_per_s=1e10, peak_bytes=peak
        )


class FakeStream:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.made = engine, 0

    async def next_block(self, events: Sequence[Event]) -> FrameBlock:
        cost = self.engine.costs[min(self.made, len(self.engine.costs) - 1)]
        clock, behind = self.engine.clock, cost * self.engine.part_behind
        clock.now = max(clock.now, clock.free_at) + cost - behind
        clock.free_at = clock.now + behind
        self.made += 1
        timings = BlockTimings(3.0, 800.0 * cost, 100.0 * cost, 950.0 * cost, (800.0 * cost,), 1.0)
        frames, latents = np.zeros((12, 64, 64, 3), np.uint8), np.zeros((3, 1, 1, 1), np.float32)
        return FrameBlock(self.made - 1, 0, frames, latents, "p", timings)

    async def close(self) -> None: ...


def use(
    monkeypatch: pytest.MonkeyPatch, costs_s: Sequence[float], peaks: Sequence[int] = (10**9,)
) -> Config:
    clock = Clock()
    monkeypatch.setattr(run, "time", clock)
    monkeypatch.setattr(run, "Engine", lambda config: FakeEngine(clock, costs_s, peaks))
    config = load_config("pattern")
    section = config.stream.model_copy(update={"window": 9, "sink": 0, "width": 64, "height": 64})
    return config.model_copy(update={"stream": section})


async def test_clip_average_and_steady_state_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    config = use(monkeypatch, [0.1, 0.2, 0.3, 0.5])
    made = await run.bench(config, Settings(), 12)
    assert made.steady_fps == pytest.approx(12 / 0.5)
    assert made.clip_fps == pytest.approx(12 * 7 / (0.1 + 0.2 + 0.3 + 4 * 0.5), abs=0.01)
    assert made.realtime == pytest.approx(12 / 0.5 / 16)
    assert made.first_frame_ms == pytest.approx(100.0)
    assert made.stages.hand_over_ms == pytest.approx(25.0)
    assert made.matrix_share == pytest.approx(1e9 / 0.4 / 1e10)


async def test_when_the_time_is_over_the_steady_state_so_far_is_told(
    monkeypatch: pytest.MonkeyPatch,
):
    config = use(monkeypatch, [0.1, 0.1, 0.1, 0.5])
    made = await run.bench(config, Settings(), 1000, within_s=6.0)
    assert 5 < made.blocks < 15
    assert made.steady_fps == pytest.approx(12 / 0.5)
    # Late already when the model is loaded: as few blocks as can be said to be steady.
    made = await run.bench(config, Settings(), 1000, within_s=0.0)
    assert made.blocks == made.fill_blocks + run.WARM_UP_BLOCKS
    compared = await run.compare(config, (Settings(), Settings(window=6)), 1000, within_s=0.0)
    assert compared.first.blocks == compared.second.blocks < 10


async def test_a_comparison_is_of_rates(monkeypatch: pytest.MonkeyPatch):
    config = use(monkeypatch, [0.1, 0.1, 0.1, 0.5])
    made = await run.compare(config, (Settings(), Settings(window=6)), 8)
    assert (made.first.window, made.second.window) == (9, 6)
    assert made.ratio == 1.0


async def test_settings_by_turns_do_not_pay_for_each_others_passes(
    monkeypatch: pytest.MonkeyPatch,
):
    """On a GPU a block is handed over while its last pass is under way."""
    config, clock = use(monkeypatch, [0.5]), Clock()
    costs = {9: 0.4, 6: 0.2}

    def engine(config: Config) -> FakeEngine:
        return FakeEngine(clock, [costs[config.stream.window]], (10**9,), part_behind=0.3)

    monkeypatch.setattr(run, "time", clock)
    monkeypatch.setattr(run, "Engine", engine)
    made = await run.compare(config, (Settings(), Settings(window=6)), 20)
    assert made.first.steady_fps == pytest.approx(12 / 0.4)
    assert made.second.steady_fps == pytest.approx(12 / 0.2)
    assert made.ratio == pytest.approx(2.0)


@pytest.mark.parametrize("num_blocks", range(5, 14))
async def test_turns_of_any_length_leave_a_steady_state(
    monkeypatch: pytest.MonkeyPatch, num_blocks: int
):
    config = use(monkeypatch, [0.5])
    made = await run.compare(config, (Settings(), Settings()), num_blocks)
    assert made.first.blocks == made.second.blocks == num_blocks
    assert made.first.steady_fps == pytest.approx(24.0)


@pytest.mark.parametrize(
    ("costs_s", "peaks", "is_flat"),
    [
        ([0.1] * 3 + [0.5], (10**9, 10**9), True),
        ([0.1] * 3 + [0.5] * 60 + [0.55] * 60, (10**9, 10**9), False),
        ([0.1] * 3 + [0.5], (10**9, 2 * 10**9), False),
    ],
)
async def test_what_grows_is_found(
    monkeypatch: pytest.MonkeyPatch, costs_s: list[float], peaks: tuple[int, int], is_flat: bool
):
    config = use(monkeypatch, costs_s, peaks)
    made = await run.flat(config, Settings(), 100)
    assert made.is_flat is is_flat
    assert made.blocks == 100


async def test_too_few_blocks_are_refused_before_anything_is_loaded():
    config = load_config("storybook")
    with pytest.raises(ConfigError, match="at least 6 are needed, since the window is full after"):
        await run.bench(config, Settings(), 4)


def test_encoding_is_timed_on_real_pictures():
    frames = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    assert 0 < run.encode_ms(frames, 16) < 5000
