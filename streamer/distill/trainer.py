"""Trainer: the one training loop of all stages: schedule, average, log, sheets, checkpoints,
resume.

A stage says what the loss is; the trainer says when.  All randomness comes from generators seeded
with (seed, step), so a
run resumed from a checkpoint continues as the run that never stopped.  This module knows nothing of
video.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from PIL import Image, ImageDraw
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from streamer.distill.optimizer import Muon
from streamer.errors import WeightsError

log = logging.getLogger(__name__)

MAX_SHARD_BYTES = 16 * 2**20
_CHECKPOINTS_KEPT = 2


class Stage(Protocol):
    """What is trained: networks, their loss, and how progress is shown.  Owned by whoever starts
    the run."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """All networks whose state a checkpoint must hold, by name."""

    @property
    def averaged(self) -> tuple[str, ...]:
        """Names of the networks of which a moving average is kept; sheets and exports use the
        average."""

    def build_optimizer(self) -> Muon:
        """The optimiser of the trained parameters; called once."""

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of one step and numbers worth logging.  Every random choice is drawn from
        `generator` (CPU)."""

    def sample_sheet(self, path: Path) -> dict[str, float]:
        """Draw what the networks do now into a PNG; returns numbers worth logging (held-out
        scores)."""

    def export(self, directory: Path) -> None:
        """Write the networks as they are used after training."""


@dataclass(frozen=True)
class TrainerConfig:
    """How long, how fast, how often.

    max_steps or max_seconds end the run, whichever is first; the learning rate follows the same
    clock.
    schedule: "cosine" falls all the way; "trapezoid" stays flat and falls linearly over the last
    `cooldown` of the run.
    accumulate: calls of the stage's loss per step.  clip_norm: largest gradient norm, 0 for no
    clipping.
    ema_decay: per step, 0 for no average.
    """

    out: Path
    seed: int = 0
    max_steps: int | None = None
    max_seconds: float | None = None
    schedule: Literal["cosine", "trapezoid"] = "trapezoid"
    warmup_steps: int = 20
    cooldown: float = 0.4
    accumulate: int = 1
    clip_norm: float = 1.0
    ema_decay: float = 0.99
    log_every_s: float = 15.0
    sheet_every_s: float = 120.0
    checkpoint_every_s: float = 300.0
    is_bf16: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a run without an end."""
        if self.max_steps is None and self.max_seconds is None:
            raise ValueError("TrainerConfig: set max_steps or max_seconds; the run would not end")


class Trainer:
    """One run of one stage in one process.  The state that changes is in the stage's networks,
    `step` and the average."""

    def __init__(self, stage: Stage, config: TrainerConfig) -> None:
        self.stage = stage
        self.config = config
        self.optimizer = stage.build_optimizer()
        self.step = 0
        self._elapsed_before_s = 0.0
        self._started_s = time.monotonic()
        self._is_stopping = False
        self._average = {name: p.detach().clone() for name, p in self._averaged_parameters()}
        config.out.mkdir(parents=True, exist_ok=True)

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, resumed runs included."""
        return self._elapsed_before_s + time.monotonic() - self._started_s

    @property
    def progress(self) -> float:
        """Share of the run that is over, 0..1."""
        steps, seconds = self.config.max_steps, self.config.max_seconds
        by_steps = 0.0 if steps is None else self.step / steps
        by_time = 0.0 if seconds is None else self.elapsed_s / seconds
        return min(1.0, max(by_steps, by_time))

    def train(self) -> None:
        """Run to the end, or to SIGTERM or SIGINT; leaves a checkpoint and an export either way."""
        self._started_s = time.monotonic()
        last_log = last_sheet = last_checkpoint = self._started_s
        with _stop_on_signal(self._stop), _progress_bar() as bar:
            task = bar.add_task("training", total=1.0, numbers="")
            while self.progress < 1 and not self._is_stopping:
                row = self.train_step()
                bar.update(task, completed=self.progress, numbers=_format(row))
                now = time.monotonic()
                if now - last_log >= self.config.log_every_s:
                    log.info("%s", _format(row))
                    last_log = now
                if now - last_sheet >= self.config.sheet_every_s:
                    self.draw()
                    last_sheet = now
                if now - last_checkpoint >= self.config.checkpoint_every_s:
                    self.save()
                    last_checkpoint = now
        self.draw()
        self.save()

    def train_step(self) -> dict[str, float]:
        """One update; returns its row of the log."""
        lr_share = self._lr_share()
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_share
        generator = torch.Generator().manual_seed((self.config.seed << 32) + self.step)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        numbers: dict[str, float] = {}
        for _ in range(self.config.accumulate):
            with self._precision():
                loss, numbers = self.stage.loss(self.step, generator)
            (loss / self.config.accumulate).backward()  # type: ignore[no-untyped-call]
            total += loss.item() / self.config.accumulate
        if not math.isfinite(total):
            text = f"step {self.step}: the loss is {total}; lower the learning rate"
            raise FloatingPointError(text)
        norm = self._clip()
        with self._precision():
            self.optimizer.step()
        self._update_average()
        self.step += 1
        row = {"step": self.step, "elapsed_s": round(self.elapsed_s, 2), "lr_share": lr_share}
        row |= {"loss": total, "grad_norm": norm, **numbers}
        self._append(row)
        return row

    def draw(self) -> None:
        """Write the sample sheet and the plot of the losses."""
        with self.averaged_weights():
            scores = self.stage.sample_sheet(self.config.out / "sheet.png")
        if scores:
            log.info("sheet step=%d %s", self.step, _format(scores))
            self._append({"step": self.step, "elapsed_s": round(self.elapsed_s, 2), **scores})
        draw_losses(self._read_log(), self.config.out / "losses.png")

    def save(self) -> Path:
        """Write a checkpoint and the stage's export; older checkpoints go, except the last ones.

        Returns the checkpoint's folder.
        """
        folder = self.config.out / f"checkpoint-{self.step:08d}"
        write_shards(folder, self._tensors())
        counts = [self.optimizer.state.get(p, {}).get("count", 0) for p in self._optimized()]
        state = {"step": self.step, "elapsed_s": self.elapsed_s, "counts": counts}
        # The state is written last: a folder without it is a checkpoint cut short, and resume
        # passes over it.
        (folder / "state.json").write_text(json.dumps(state) + "\n")
        with self.averaged_weights():
            self.stage.export(self.config.out / "export")
        for old in find_checkpoints(self.config.out)[:-_CHECKPOINTS_KEPT]:
            shutil.rmtree(old)
        log.info("checkpoint step=%d path=%s", self.step, folder)
        return folder

    def resume(self, folder: Path) -> None:
        """Take up everything that `save` wrote.  Raises WeightsError when names or shapes
        differ."""
        tensors = read_shards(folder)
        state = json.loads((folder / "state.json").read_text())
        for parameter, count in zip(self._optimized(), state["counts"], strict=True):
            if count:
                self.optimizer.state[parameter] = {"count": count}
        for index, parameter in enumerate(self._optimized()):
            prefix = f"optimizer.{index}."
            for name in [name for name in tensors if name.startswith(prefix)]:
                buffer = tensors.pop(name).to(parameter.device)
                self.optimizer.state[parameter][name.removeprefix(prefix)] = buffer
        own = self._tensors(with_optimizer=False)
        if own.keys() != tensors.keys():
            strange = sorted(own.keys() ^ tensors.keys())[:4]
            raise WeightsError(f"{folder}: names differ from the stage's: {strange}")
        for name, value in own.items():
            if value.shape != tensors[name].shape:
                found, needed = tuple(tensors[name].shape), tuple(value.shape)
                raise WeightsError(f"{folder}: {name} is {found}, the stage needs {needed}")
            value.copy_(tensors[name])
        self.step = state["step"]
        self._elapsed_before_s = state["elapsed_s"]
        self._started_s = time.monotonic()
        rows = [row for row in self._read_log() if row["step"] <= self.step]
        self._log_path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the averaged networks carry their average; afterwards their own weights again."""
        pairs = [(p, self._average[name]) for name, p in self._averaged_parameters()]
        own = [p.detach().clone() for p, _ in pairs]
        try:
            with torch.no_grad():
                for parameter, average in pairs if self.config.ema_decay else []:
                    parameter.copy_(average)
            yield
        finally:
            with torch.no_grad():
                for (parameter, _), weights in zip(pairs, own, strict=True):
                    parameter.copy_(weights)

    @property
    def _log_path(self) -> Path:
        return self.config.out / "losses.jsonl"

    def _stop(self) -> None:
        self._is_stopping = True

    def _lr_share(self) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        if self.config.schedule == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * self.progress))
        return warm * min(1.0, (1 - self.progress) / max(self.config.cooldown, 1e-9))

    @contextmanager
    def _precision(self) -> Iterator[None]:
        """bfloat16 matrix products, if asked for."""
        device = self._optimized()[0].device.type
        with ExitStack() as stack:
            if self.config.is_bf16:
                stack.enter_context(torch.autocast(device, torch.bfloat16))
            if self.config.is_bf16 and device == "cpu":  # where the fused backward is the slow one
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def _clip(self) -> float:
        limit = self.config.clip_norm or math.inf
        return float(nn.utils.clip_grad_norm_(self._optimized(), limit))

    def _optimized(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _averaged_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [
            (f"{name}.{key}", parameter)
            for name in self.stage.averaged
            for key, parameter in self.stage.modules[name].named_parameters()
        ]

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average follows more closely, so that it is not made of the first, random
        # weights.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for name, parameter in self._averaged_parameters():
            self._average[name].lerp_(parameter, 1 - decay)

    def _tensors(self, with_optimizer: bool = True) -> dict[str, Tensor]:
        tensors = {
            f"model.{name}.{key}": value
            for name, module in self.stage.modules.items()
            for key, value in module.state_dict().items()
        }
        tensors |= {f"average.{name}": value for name, value in self._average.items()}
        for index, parameter in enumerate(self._optimized() if with_optimizer else []):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{key}"] = value
        return tensors

    def _append(self, row: Mapping[str, float]) -> None:
        with self._log_path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _read_log(self) -> list[dict[str, float]]:
        if not self._log_path.exists():
            return []
        return [json.loads(line) for line in self._log_path.read_text().splitlines()]


def write_shards(folder: Path, tensors: Mapping[str, Tensor], limit: int = MAX_SHARD_BYTES) -> None:
    """Write tensors as safetensors files of at most `limit` bytes of values each, with `index.json`
    to join them.

    A tensor larger than the limit is cut into flat pieces.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    index: dict[str, dict[str, Any]] = {}
    room = limit
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().flatten()
        pieces = torch.split(flat, max(1, limit // flat.element_size()))
        index[name] = {"shape": list(tensor.shape), "pieces": []}
        for number, piece in enumerate(pieces):
            size = piece.numel() * piece.element_size()
            if size > room and shards[-1]:
                shards.append({})
                room = limit
            room -= size
            shards[-1][f"{name}#{number}"] = piece.clone()
            index[name]["pieces"].append(len(shards) - 1)
    for number, shard in enumerate(shards):
        save_file(shard, folder / f"shard-{number:04d}.safetensors")
    (folder / "index.json").write_text(json.dumps(index) + "\n")


def read_shards(folder: Path) -> dict[str, Tensor]:
    """Read what `write_shards` wrote, on the CPU."""
    parts: dict[str, Tensor] = {}
    for path in sorted(folder.glob("shard-*.safetensors")):
        parts |= load_file(path)
    index = json.loads((folder / "index.json").read_text())
    result: dict[str, Tensor] = {}
    for name, entry in index.items():
        pieces = [parts[f"{name}#{number}"] for number in range(len(entry["pieces"]))]
        result[name] = torch.cat(pieces).reshape(entry["shape"])
    return result


def find_checkpoints(out: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(state.parent for state in out.glob("checkpoint-*/state.json"))


def draw_losses(rows: list[dict[str, float]], path: Path) -> None:
    """A PNG of the loss over steps on a logarithmic axis: every step as a dot, a running mean as a
    line."""
    points = [(row["step"], math.log10(max(row["loss"], 1e-9))) for row in rows if "loss" in row]
    if len(points) < 2:
        return
    width, height, margin = 900, 420, 50
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = points[0][0], points[-1][0]

    def place(step: float, value: float) -> tuple[float, float]:
        x = margin + (step - first) / max(1, last - first) * (width - 2 * margin)
        y = height - margin - (value - low) / max(1e-9, high - low) * (height - 2 * margin)
        return x, y

    image = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(image)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = low + share * (high - low)
        y = place(first, value)[1]
        canvas.line((margin, y, width - margin, y), fill=(225, 225, 225))
        canvas.text((4, y - 6), f"{10**value:.3g}", fill="black")
    canvas.text((margin, height - 30), f"loss by step, {first:g} to {last:g}", fill="black")
    mean, line = points[0][1], []
    for step, value in points:
        canvas.point(place(step, value), fill=(150, 180, 230))
        mean += 0.05 * (value - mean)
        line.append(place(step, mean))
    canvas.line(line, fill=(20, 60, 160), width=2)
    image.save(path)


def _format(numbers: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.5g}" for name, value in numbers.items())


def _progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[numbers]}"))


@contextmanager
def _stop_on_signal(stop: Any) -> Iterator[None]:
    """Inside, SIGTERM and SIGINT call `stop` once; only the main thread may change handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, _frame: FrameType | None) -> None:
        log.info("stopping signal=%s", signal.Signals(number).name)
        stop()

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
