"""What a benchmark found, and what it means."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass

from streamer.engine.figures import ModelFigures

PERCENT = 100


@dataclass(frozen=True)
class Stages:
    """Where a block's time goes at full window: medians, in milliseconds.

    text_ms: encoding a prompt that was never seen, once a prompt.  steps_ms: each denoising pass.
    clean_pass_ms: the pass that writes the block into the history; with is_fused it also holds the
    first step of the next block, which steps_ms then lacks.  copy_ms: pictures from the device.
    hand_over_ms: from the worker to the event loop.  encode_ms: a viewer's video, made once for all
    of them.  On a GPU decoding, copying and the clean pass run beside each other.
    """

    text_ms: float
    steps_ms: tuple[float, ...]
    clean_pass_ms: float
    decode_ms: float
    copy_ms: float
    hand_over_ms: float
    encode_ms: float
    is_fused: bool = False


@dataclass(frozen=True)
class BenchReport:
    """One setting.  Times in milliseconds a block, fps in pictures a second, decode included.

    clip_fps: over the first clip_blocks blocks, while the window fills: what most published figures
    are.  steady_fps: at full window, which a stream that never ends has.  realtime: steady over the
    stream's own rate.  first_frame_ms: from asking for a new stream to its first pictures.
    tflops: reached in the passes.  matrix_tflops, copy_gigabytes_per_s: what the machine reaches
    alone.  matrix_share: the first over the second.  fill_blocks: until the window is full.
    """

    model: str
    setting: str
    size: str
    window: int
    machine: str
    device: str
    dtype: str
    operations: tuple[tuple[str, str], ...]
    num_graphs: int
    blocks: int
    fill_blocks: int
    clip_blocks: int
    frames_per_block: int
    load_s: float
    first_frame_ms: float
    clip_fps: float
    steady_fps: float
    realtime: float
    block_ms_p50: float
    block_ms_p90: float
    block_ms_p99: float
    stages: Stages
    peak_memory_mb: float
    tflops: float
    matrix_tflops: float
    matrix_share: float
    copy_gigabytes_per_s: float
    psnr_db: float | None
    verdict: str

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def share_of_rate(figures: ModelFigures, denoise_ms: float) -> tuple[float, float]:
    """TFLOP/s of the passes, and their share of the machine's own rate; 0 without a model."""
    if not (figures.pass_flops and denoise_ms and figures.matrix_flops_per_s):
        return 0.0, 0.0
    reached = figures.pass_flops * figures.num_passes / (denoise_ms / 1000)
    return reached / 1e12, reached / figures.matrix_flops_per_s


def verdict(
    realtime: float, share: float, stages: Stages, block_ms: float, decodes_beside: bool
) -> str:
    """One sentence that answers: is that good?"""
    ending = "" if realtime >= 1 else ", too slow to play without pauses"
    said = f"{realtime:.1f}x real time{ending}"
    if share:
        denoise_ms = sum(stages.steps_ms) + stages.clean_pass_ms
        said += (
            f"; the passes reach {PERCENT * share:.0f} % of this machine's matrix rate and take "
            f"{PERCENT * min(1.0, denoise_ms / block_ms):.0f} % of a block"
        )
        others = {
            "decoding": stages.decode_ms,
            "copying pictures": stages.copy_ms,
            "handing them over": stages.hand_over_ms,
        }
        most = max(others, key=lambda name: others[name])
        part = PERCENT * others[most] / block_ms
        is_beside = decodes_beside and most != "handing them over"
        said += f"; most of the rest is {most}, {part:.0f} %" + (
            " beside them" if is_beside else ""
        )
    return said + "."


def percentile(values: list[float], part: float) -> float:
    """The value below which that part of them lies, interpolated."""
    if len(values) == 1:
        return values[0]
    place = part * (len(values) - 1)
    ordered, low = sorted(values), int(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def text_table(made: BenchReport) -> str:
    """For people: the figures, the yardsticks, and the verdict at last."""
    stages = made.stages
    steps = " + ".join(f"{each:.1f}" for each in stages.steps_ms) or "-"
    clean = "clean pass with the next block's first step" if stages.is_fused else "clean pass"
    lines = [
        f"{made.model} {made.size}, window {made.window or 'unlimited'}, "
        f"{made.dtype or 'no model'} on {made.device} ({made.setting})",
        f"steady state   {made.steady_fps:8.2f} frames/s at full window, {made.realtime:.2f}x real "
        "time, decode included",
        f"clip average   {made.clip_fps:8.2f} frames/s over the first {made.clip_blocks} blocks",
        f"block          {made.block_ms_p50:8.1f} ms median, {made.block_ms_p90:.1f} p90, "
        f"{made.block_ms_p99:.1f} p99, of {made.frames_per_block} frames",
        f"first picture  {made.first_frame_ms:8.1f} ms after a stream is asked for; "
        f"the model loads in {made.load_s:.1f} s",
        f"of a block     steps {steps}, {clean} {stages.clean_pass_ms:.1f}, decode "
        f"{stages.decode_ms:.1f}, copy {stages.copy_ms:.1f}, hand over "
        f"{stages.hand_over_ms:.1f} ms",
        f"beside it      a new prompt's text {stages.text_ms:.1f} ms, encoding for viewers "
        f"{stages.encode_ms:.1f} ms",
        f"memory         {made.peak_memory_mb:8.0f} MB at most",
    ]
    if made.matrix_tflops:
        lines.append(
            f"arithmetic     {made.tflops:8.3g} TFLOP/s in the passes; this machine's matrix "
            f"product {made.matrix_tflops:.3g}, its copy {made.copy_gigabytes_per_s:.3g} GB/s"
        )
    if made.operations:
        served = "; ".join(f"{names}: {backend}" for names, backend in made.operations)
        lines.append(f"kernels        {served}; {made.num_graphs} kinds of pass replayed")
    if made.psnr_db is not None:
        lines.append(f"eight bits     {made.psnr_db:8.1f} dB from full precision, teacher-forced")
    return "\n".join([*lines, made.verdict])


def median(values: list[float]) -> float:
    """The median, 0 of nothing."""
    return statistics.median(values) if values else 0.0
