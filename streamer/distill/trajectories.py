"""Trajectories: a teacher's paths from noise to clips, kept at the levels of a student's steps.

CausVid (Yin et al. 2024, arXiv:2412.07772, section 4.2): a student that learns where on such paths
it would end needs few steps from the start, and distribution matching has something to go on from.
A path is the flow's ordinary differential equation, solved by Euler's method under guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from streamer.distill.draws import draw_noise, send
from streamer.distill.losses import guided_flow
from streamer.distill.ranks import num_ranks, rank, wait_for_ranks
from streamer.distill.replacing import replacing
from streamer.distill.shards import ClipSource
from streamer.distill.stored_clips import LIGHT_BYTES
from streamer.errors import ConfigError, WeightsError
from streamer.models.context import FullContext
from streamer.models.sampler import NUM_TRAIN_TIMESTEPS, euler_step
from streamer.models.transformer import CausalWanTransformer, PromptKV


@dataclass(frozen=True)
class PathSolver:
    """Solves a teacher's flow from noise to a clean clip.

    guidance: how far the text is exaggerated; 1 asks the teacher once a step.  num_steps, shift: of
    the grid of noise levels, as in FlowMatchTable.
    """

    teacher: CausalWanTransformer
    guidance: float = 3.0
    num_steps: int = 48
    shift: float = 1.0
    _everything: FullContext = field(default_factory=FullContext, init=False, repr=False)

    @torch.no_grad()
    def solve(
        self, noise: Tensor, text: Tensor, nothing: Tensor, levels: tuple[float, ...] = ()
    ) -> list[Tensor]:
        """The states of a path at some noise levels, and its end.

        noise: [B, F, C, H, W], the state at level 1.  text: [B, K, E].  nothing: the empty text,
            [1, K, E].  levels: falling, each above 0; the grid is refined to hit them.
        results: len(levels) + 1 tensors like `noise`.
        """
        told = self.teacher.encode_text(text)
        untold = self.teacher.encode_text(nothing.expand_as(text))
        grid = self._grid(levels)
        latents, states = noise, []
        for sigma, following in zip(grid, [*grid[1:], 0.0], strict=True):
            if sigma in levels:
                states.append(latents)
            latents = euler_step(
                latents, self._flow(latents, sigma, told, untold), sigma, following
            )
        return [*states, latents]

    def _grid(self, levels: tuple[float, ...]) -> list[float]:
        """Falling noise levels from 1, the wanted ones among them and in place of close ones."""
        points = [1 - i / self.num_steps for i in range(self.num_steps)]
        even = [self.shift * u / (1 + (self.shift - 1) * u) for u in points]
        near = 0.25 / self.num_steps
        kept = [s for s in even if all(abs(s - level) > near for level in levels)]
        return sorted({1.0, *kept, *levels}, reverse=True)

    def _flow(self, latents: Tensor, sigma: float, told: PromptKV, untold: PromptKV) -> Tensor:
        timestep = torch.full((len(latents),), sigma * NUM_TRAIN_TIMESTEPS, device=latents.device)
        flow: Tensor = self.teacher(latents, timestep, told, self._everything)
        if self.guidance == 1:
            return flow
        without: Tensor = self.teacher(latents, timestep, untold, self._everything)
        return guided_flow(flow, without, self.guidance)


@dataclass(frozen=True)
class TrajectoryConfig:
    """How many paths, and how they are solved.

    per_shard: paths in a file.  batch: solved at once.  num_frames: of a clip; None: of the shards.
    """

    num_shards: int = 16
    per_shard: int = 32
    batch: int = 16
    guidance: float = 3.0
    num_steps: int = 48
    shift: float = 1.0
    num_frames: int | None = None


@torch.no_grad()
def build_trajectories(
    out: Path,
    teacher: CausalWanTransformer,
    source: ClipSource,
    nothing: Tensor,
    levels: tuple[float, ...],
    config: TrajectoryConfig,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write shards of paths under texts of `source`; shards that are there already are kept.

    Each shard depends on its number and the seed alone; ranks take turns, each with a whole
    teacher.  levels: noise levels that are kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    solver = PathSolver(teacher, config.guidance, config.num_steps, config.shift)
    device = next(teacher.parameters()).device
    frames = config.num_frames or source.num_frames
    for index in range(config.num_shards):
        path = out / f"paths-{index:05d}.safetensors"
        is_mine = index % num_ranks() == rank()
        if is_mine and not path.exists():
            generator = torch.Generator().manual_seed((seed << 32) + index)
            text = source.draw_texts(config.per_shard, generator)
            size = (config.per_shard, frames, *source.frame_shape)
            noise = draw_noise(size, generator, device)
            states = [
                torch.stack(solver.solve(part, send(told, device), nothing, levels), 1)
                for part, told in zip(
                    torch.split(noise, config.batch), torch.split(text, config.batch), strict=True
                )
            ]
            tensors = {
                "states": torch.cat(states).half().cpu(),
                "text": text.half().cpu(),
                "levels": torch.tensor(levels),
            }
            with replacing(path) as partial:
                save_file(tensors, partial)
        on_progress(index + 1)
    wait_for_ranks()


@dataclass(frozen=True)
class Paths:
    """Some paths.

    states: [B, S + 1, F, C, H, W], at the levels and at the end.  text: [B, K, E].  float32.
    """

    states: Tensor
    text: Tensor


class Trajectories:
    """All paths of a folder: in memory while they are small, else read from the files when drawn.

    frame_shape: C, H, W of a latent frame.  device: whose memory holds the small ones.
    Raises WeightsError when there is none, ConfigError when they were kept at other levels.
    """

    def __init__(
        self,
        folder: Path,
        levels: tuple[float, ...],
        most_bytes: int = LIGHT_BYTES,
        device: torch.device | str = "cpu",
    ) -> None:
        paths = sorted(folder.glob("paths-*.safetensors"))
        if not paths:
            raise WeightsError(
                f"{folder}: no paths; make them with `streamer distill trajectories`"
            )
        self._rows: list[tuple[Path, int]] = []
        for path in paths:
            with safe_open(path, framework="pt") as file:
                _check_levels(path, file.get_tensor("levels").tolist(), levels)
                shape = file.get_slice("states").get_shape()
            self._rows += [(path, number) for number in range(shape[0])]
            self.frame_shape: tuple[int, int, int] = (shape[3], shape[4], shape[5])
        self._held: Paths | None = None
        if sum(path.stat().st_size for path in paths) <= most_bytes:
            held = self._read(range(len(self._rows)))
            self._held = Paths(send(held.states, device), send(held.text, device))

    def __len__(self) -> int:
        return len(self._rows)

    def draw(self, count: int, generator: torch.Generator) -> Paths:
        """Some paths by chance, as float32."""
        return self.rows(torch.randint(len(self), (count,), generator=generator))

    def rows(self, numbers: Tensor) -> Paths:
        """Some paths by their numbers, as float32."""
        held = self._held or self._read(numbers.tolist())
        chosen = numbers if self._held else torch.arange(len(numbers))
        chosen = send(chosen, held.states.device)
        return Paths(held.states[chosen].float(), held.text[chosen].float())

    def _read(self, numbers: Iterable[int]) -> Paths:
        states, texts = [], []
        for path, rows in groupby((self._rows[number] for number in numbers), itemgetter(0)):
            with safe_open(path, framework="pt") as file:
                all_states, all_texts = file.get_slice("states"), file.get_slice("text")
                for _, row in rows:
                    states.append(all_states[row])
                    texts.append(all_texts[row])
        longest = max(len(text) for text in texts)
        padded = [F.pad(text, (0, 0, 0, longest - len(text))) for text in texts]
        return Paths(torch.stack(states), torch.stack(padded))


def _check_levels(path: Path, found: list[float], wanted: tuple[float, ...]) -> None:
    """Raise ConfigError for a file of paths that were kept at other levels."""
    is_same = len(found) == len(wanted)
    if not is_same or any(abs(a - b) > 1e-4 for a, b in zip(found, wanted, strict=True)):
        raise ConfigError(
            f"{path}: kept at noise levels {_text(found)}, the student has {_text(wanted)}; "
            "make the paths again for this configuration"
        )


def _text(levels: Sequence[float]) -> str:
    return ", ".join(f"{level:.4g}" for level in levels)
