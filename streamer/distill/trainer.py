"""Trainer: the one training loop of all stages: schedule, average, log, sheets, checkpoints,
resume.

A stage says what the loss is; the trainer says when.  All randomness comes from generators seeded
with (seed, step, rank), so a run resumed from a checkpoint continues as the run that never stopped.
Under torchrun all ranks train together (ranks.py): each draws its own samples, one writes.  This
module knows nothing of video.
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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from streamer.distill.checkpoints import ShardReader, find_checkpoints, write_shards
from streamer.distill.optimizer import Muon
from streamer.distill.plot import draw_losses
from streamer.distill.precision import attending, computing
from streamer.distill.ranks import is_main, largest, local, mean, part, rank, wait_for_ranks, whole
from streamer.errors import WeightsError

log = logging.getLogger(__name__)

Numbers = Mapping[str, float | Tensor]
"""Numbers worth logging; tensors of one number stay on the device until the step is over."""
Update = tuple[Tensor, Numbers]
"""A loss and numbers worth logging."""

_CHECKPOINTS_KEPT = 2


class Networks(Protocol):
    """What is trained, and how progress is shown.  Owned by whoever starts the run."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """All networks whose state a checkpoint must hold, by name."""

    @property
    def averaged(self) -> tuple[str, ...]:
        """Names of the networks of which a moving average is kept; sheets and exports use the
        average."""

    def build_optimizer(self) -> Muon:
        """The optimiser of the trained parameters; called once."""

    def sample_sheet(self, path: Path) -> dict[str, float]:
        """Draw what the networks do now into a PNG; returns numbers worth logging (held-out
        scores)."""

    def export(self, directory: Path) -> None:
        """Write the networks as they are used after training."""


class Stage(Networks, Protocol):
    """A stage of one loss."""

    def loss(self, step: int, generator: torch.Generator) -> Update:
        """The loss of one step and numbers worth logging.  Every random choice is drawn from
        `generator` (CPU)."""


@runtime_checkable
class CycleStage(Networks, Protocol):
    """A stage whose step is several updates in turn, such as those of a critic and of a student."""

    def updates(self, step: int, generator: torch.Generator) -> Iterator[Update]:
        """The losses of one step and numbers worth logging.

        The trainer applies each loss before it asks for the next.  What a loss gives gradients to
        is updated, nothing else.  A step's row of the log holds the first loss as `loss`.
        """


@dataclass(frozen=True)
class TrainerConfig:
    """How long, how fast, how often.

    max_steps or max_seconds end the run, whichever is first; the learning rate follows the same
    clock.
    schedule: "constant" stays; "cosine" falls all the way; "trapezoid" stays flat and falls
    linearly over the last `cooldown` of the run.
    accumulate: calls of the stage's loss per step.  clip_norm: largest gradient norm, 0 for no
    clipping.
    ema_decay: per step, 0 for no average.  average_on_host: keep the average in the CPU's memory.
    """

    out: Path
    seed: int = 0
    max_steps: int | None = None
    max_seconds: float | None = None
    schedule: Literal["cosine", "trapezoid", "constant"] = "trapezoid"
    warmup_steps: int = 20
    cooldown: float = 0.4
    accumulate: int = 1
    clip_norm: float = 1.0
    ema_decay: float = 0.99
    log_every_s: float = 15.0
    sheet_every_s: float = 120.0
    checkpoint_every_s: float = 300.0
    is_bf16: bool = False
    average_on_host: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a run without an end."""
        if self.max_steps is None and self.max_seconds is None:
            raise ValueError("TrainerConfig: set max_steps or max_seconds; the run would not end")


class Trainer:
    """One run of one stage.  The state that changes is in the stage's networks, `step` and the
    average."""

    def __init__(self, stage: Stage | CycleStage, config: TrainerConfig) -> None:
        self.stage = stage
        self.config = config
        self.optimizer = stage.build_optimizer()
        self.step = 0
        self._elapsed_s = self._elapsed_before_s = 0.0
        self._started_s = time.monotonic()
        self._is_stopping = False
        self._average = {
            name: self._to_average(local(p).detach(), copy=True)
            for name, p in self._averaged_parameters()
        }
        config.out.mkdir(parents=True, exist_ok=True)

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, resumed runs included; the same on all ranks when a step begins."""
        return self._elapsed_s

    @property
    def progress(self) -> float:
        """Share of the run that is over, 0..1."""
        steps, seconds = self.config.max_steps, self.config.max_seconds
        by_steps = 0.0 if steps is None else self.step / steps
        by_time = 0.0 if seconds is None else self.elapsed_s / seconds
        return min(1.0, max(by_steps, by_time))

    def train(self) -> bool:
        """Run to the end, or to SIGTERM or SIGINT; leaves a checkpoint and an export either way.

        Returns whether the end was reached.
        """
        self._started_s = time.monotonic()
        self._look_at_clock()
        last_log = last_sheet = last_checkpoint = self.elapsed_s
        with _stop_on_signal(self._stop), _progress_bar() as bar:
            task = bar.add_task("training", total=1.0, numbers="")
            while self.progress < 1 and not largest(float(self._is_stopping)):
                row = self.train_step()
                bar.update(task, completed=self.progress, numbers=_format(row))
                if self.elapsed_s - last_log >= self.config.log_every_s:
                    log.info("%s", _format(row))
                    last_log = self.elapsed_s
                if self.elapsed_s - last_sheet >= self.config.sheet_every_s:
                    self.draw()
                    last_sheet = self.elapsed_s
                if self.elapsed_s - last_checkpoint >= self.config.checkpoint_every_s:
                    self.save()
                    last_checkpoint = self.elapsed_s
        self.draw()
        self.save()
        return self.progress >= 1

    def train_step(self) -> dict[str, float]:
        """One step; returns its row of the log.

        The host waits for a GPU once, at the end.  Raises FloatingPointError when a loss is no
        number.
        """
        lr_share = self._lr_share()
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_share
        seed = (rank() << 52) + (self.config.seed << 32) + self.step
        generator = torch.Generator().manual_seed(seed)
        sources = [self._updates(generator) for _ in range(self.config.accumulate)]
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        numbers: dict[str, float | Tensor] = {}
        while (update := self._update(sources, numbers)) is not None:
            losses.append(update[0])
            norms.append(update[1])
        self._update_average()
        totals, told = _read([*losses, norms[0]], numbers)
        norm = totals.pop()
        totals = [self._checked(mean(total)) for total in totals]
        self.step += 1
        self._look_at_clock()
        row = {"step": self.step, "elapsed_s": round(self.elapsed_s, 2), "lr_share": lr_share}
        row |= {"loss": totals[0], "grad_norm": norm, **told}
        self._append(row)
        return row

    def _updates(self, generator: torch.Generator) -> Iterator[Update]:
        if isinstance(self.stage, CycleStage):
            return self.stage.updates(self.step, generator)
        return (self.stage.loss(self.step, generator) for _ in range(1))

    def _update(
        self, sources: list[Iterator[Update]], numbers: dict[str, float | Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """One update from the next loss of each source, whose numbers are added to `numbers`.

        result: the loss and the gradient's norm; None when there is no further update.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self._device)
        for source in sources:
            with self._precision():
                found = next(source, None)
            if found is None:
                return None
            loss, told = found
            numbers.update(told)
            with attending(self._device, self.config.is_bf16):
                (loss / len(sources)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() / len(sources)
        if self._device.type == "cpu":  # a GPU is not waited for until the step is over
            self._checked(mean(total.item()))
        norm = self._clip()
        with self._precision():
            self.optimizer.step()
        return total, norm

    def draw(self) -> None:
        """Write the sample sheet and the plot of the losses."""
        # All ranks take part in the passes of a sheet; those that do not write draw into nowhere.
        with self.averaged_weights(), TemporaryDirectory() as nowhere:
            folder = self.config.out if is_main() else Path(nowhere)
            scores = self.stage.sample_sheet(folder / "sheet.png")
        if scores:
            log.info("sheet step=%d %s", self.step, _format(scores))
            self._append({"step": self.step, "elapsed_s": round(self.elapsed_s, 2), **scores})
        if is_main():
            draw_losses(self._read_log(), self.config.out / "losses.png")

    def save(self) -> Path:
        """Write a checkpoint and the stage's export; older checkpoints go, except the last ones.

        Returns the checkpoint's folder.
        """
        folder = self.config.out / f"checkpoint-{self.step:08d}"
        write_shards(folder, self._whole_tensors())
        counts = [self.optimizer.state.get(p, {}).get("count", 0) for p in self._optimized()]
        state = {"step": self.step, "elapsed_s": self.elapsed_s, "counts": counts}
        # The state is written last: a folder without it is a checkpoint cut short, and resume
        # passes over it.
        if is_main():
            (folder / "state.json").write_text(json.dumps(state) + "\n")
        with self.averaged_weights():
            self.stage.export(self.config.out / "export")
        if is_main():
            for old in find_checkpoints(self.config.out)[:-_CHECKPOINTS_KEPT]:
                shutil.rmtree(old)
        wait_for_ranks()
        log.info("checkpoint step=%d path=%s", self.step, folder)
        return folder

    def resume(self, folder: Path) -> None:
        """Take up everything that `save` wrote, by any number of ranks.

        Raises WeightsError when names or shapes differ.
        """
        reader = ShardReader(folder)
        state = json.loads((folder / "state.json").read_text())
        shapes = dict(reader.shapes)
        for index, (parameter, count) in enumerate(
            zip(self._optimized(), state["counts"], strict=True)
        ):
            prefix = f"optimizer.{index}."
            names = [name for name in shapes if name.startswith(prefix)]
            buffers = {n.removeprefix(prefix): part(reader.read(n), parameter) for n in names}
            if buffers:
                moved = {name: b.to(parameter.device) for name, b in buffers.items()}
                self.optimizer.state[parameter] = {"count": count, **moved}
            for name in names:
                del shapes[name]
        own = {name: (value, like) for name, value, like in self._tensors(with_optimizer=False)}
        if own.keys() != shapes.keys():
            strange = sorted(own.keys() ^ shapes.keys())[:4]
            raise WeightsError(f"{folder}: names differ from the stage's: {strange}")
        for name, (value, like) in own.items():
            if tuple(like.shape) != shapes[name]:
                found, needed = shapes[name], tuple(like.shape)
                raise WeightsError(f"{folder}: {name} is {found}, the stage needs {needed}")
            local(value).copy_(part(reader.read(name), like))
        self.step = state["step"]
        self._elapsed_before_s = state["elapsed_s"]
        self._started_s = time.monotonic()
        self._look_at_clock()
        if is_main():
            rows = [row for row in self._read_log() if row["step"] <= self.step]
            self._log_path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the averaged networks carry their average; afterwards their own weights again."""
        pairs = [(local(p), self._average[name]) for name, p in self._averaged_parameters()]
        own = [self._to_average(p.detach(), copy=True) for p, _ in pairs]
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
        if self.config.schedule == "constant":
            return warm
        if self.config.schedule == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * self.progress))
        return warm * min(1.0, (1 - self.progress) / max(self.config.cooldown, 1e-9))

    def _precision(self) -> AbstractContextManager[None]:
        return computing(self._device, self.config.is_bf16)

    @property
    def _device(self) -> torch.device:
        return self._optimized()[0].device

    def _checked(self, loss: float) -> float:
        if not math.isfinite(loss):
            text = f"step {self.step}: the loss is {loss}; lower the learning rate"
            raise FloatingPointError(text)
        return loss

    def _clip(self) -> Tensor:
        limit = self.config.clip_norm or math.inf
        return whole(nn.utils.clip_grad_norm_(self._optimized(), limit))

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
        named = self._averaged_parameters()
        averages = [self._average[name] for name, _ in named]
        new = [self._to_average(local(parameter)) for _, parameter in named]
        if averages:
            torch._foreach_lerp_(averages, new, 1 - decay)

    def _to_average(self, tensor: Tensor, copy: bool = False) -> Tensor:
        """A tensor where averages are kept."""
        device = torch.device("cpu") if self.config.average_on_host else tensor.device
        return tensor.to(device, copy=copy)

    def _look_at_clock(self) -> None:
        own = self._elapsed_before_s + time.monotonic() - self._started_s
        self._elapsed_s = largest(own)

    def _tensors(self, with_optimizer: bool = True) -> Iterator[tuple[str, Tensor, Tensor]]:
        """All that changes: names, this rank's tensors, and tensors that are split as they are."""
        for name, module in self.stage.modules.items():
            for key, value in module.state_dict().items():
                yield f"model.{name}.{key}", value, value
        for name, parameter in self._averaged_parameters():
            yield f"average.{name}", self._average[name], parameter
        for index, parameter in enumerate(self._optimized() if with_optimizer else []):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    yield f"optimizer.{index}.{key}", value, parameter

    def _whole_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, value, like in self._tensors():
            yield name, whole(value, like)

    def _append(self, row: Mapping[str, float]) -> None:
        if not is_main():
            return
        with self._log_path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _read_log(self) -> list[dict[str, float]]:
        if not self._log_path.exists():
            return []
        return [json.loads(line) for line in self._log_path.read_text().splitlines()]


def _read(
    tensors: list[Tensor], numbers: Mapping[str, float | Tensor]
) -> tuple[list[float], dict[str, float]]:
    """Numbers from the device, all at once."""
    waiting = [*tensors, *(value for value in numbers.values() if isinstance(value, Tensor))]
    read = torch.stack([value.detach().double().reshape(()) for value in waiting]).tolist()
    later = iter(read[len(tensors) :])
    told = {n: next(later) if isinstance(v, Tensor) else v for n, v in numbers.items()}
    return read[: len(tensors)], told


def _format(numbers: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.5g}" for name, value in numbers.items())


def _progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[numbers]}"), disable=not is_main())


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
