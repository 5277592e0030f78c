"""Flow matching with few steps: noise levels, moves between them, noise, and the denoising loop.

Latents at noise level sigma are x = (1 - sigma) * clean + sigma * noise; the model predicts the
flow, noise - clean. Rectified flow, Liu et al. 2022, arXiv:2209.03003.  The loop is Self-Forcing's,
Huang et al. 2025, arXiv:2506.08009, algorithm 2: predict clean latents, add fresh noise for the
next level, and at last write clean keys into the context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from streamer.models.context import StreamingContext
from streamer.models.rolling import RollingContext
from streamer.models.transformer import PromptKV
from streamer.models.unipc import UniPC

NUM_TRAIN_TIMESTEPS = 1000
_MASK = (1 << 64) - 1

Solver = Literal["renoise", "unipc"]


@dataclass(frozen=True)
class DenoisingSteps:
    """The steps of one block, from noise to clean: what the model is told, and the noise level.

    solver: how to go from one level to the next.  "renoise": clean latents and fresh noise, as
    CausVid and Self-Forcing train.  "unipc": no fresh noise; see streamer.models.unipc.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    solver: Solver = "renoise"

    @classmethod
    def literal(cls, timesteps: Sequence[float], solver: Solver = "unipc") -> DenoisingSteps:
        """Timesteps that are their own noise level, sigma = t / 1000, without a table.

        What LightX2V does with a list that is warped already.
        """
        sigmas = tuple(timestep / NUM_TRAIN_TIMESTEPS for timestep in timesteps)
        return cls(tuple(timesteps), sigmas, solver)


class FlowMatchTable:
    """The table of noise levels that published few-step models were trained with.

    shift: how much time is spent at high noise; sigma = shift * s / (1 + (shift - 1) * s).
    num_steps: length of the table.
    extra_step: s runs over num_steps + 1 points, the last of which is dropped, so that sigma never
        reaches sigma_min.
    sigmas, timesteps: float32 [num_steps], falling; timestep = 1000 * sigma.

    Levels are always looked up as the nearest timestep of the table; timestep 0 has the last sigma,
    not zero.
    """

    def __init__(
        self,
        shift: float,
        num_steps: int = NUM_TRAIN_TIMESTEPS,
        *,
        sigma_min: float = 0.0,
        extra_step: bool = True,
    ) -> None:
        if shift <= 0.0 or num_steps < 1:
            raise ValueError(f"shift is {shift} and num_steps {num_steps}; expected > 0 and >= 1")
        self.shift = shift
        points = torch.linspace(1.0, sigma_min, num_steps + 1 if extra_step else num_steps)
        points = points[:num_steps]
        self.sigmas = shift * points / (1.0 + (shift - 1.0) * points)
        self.timesteps = self.sigmas * NUM_TRAIN_TIMESTEPS

    def lookup(self, timestep: Tensor) -> Tensor:
        """Index of the nearest timestep, the first among equals.

        Any shape; int64 on the same device.
        """
        table = self.timesteps.to(timestep.device, torch.float64)
        gaps = (table - timestep.to(torch.float64).unsqueeze(-1)).abs()
        return gaps.argmin(dim=-1)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Noise level of each timestep by lookup: float32, the shape of `timestep`."""
        return self.sigmas.to(timestep.device)[self.lookup(timestep)]

    def warp(self, steps: Sequence[int]) -> list[float]:
        """Entry T of a published list means table entry 1000 - T; entry 0 stays 0.

        Raises ValueError past 0..1000.
        """
        if any(not 0 <= step <= NUM_TRAIN_TIMESTEPS for step in steps):
            raise ValueError(
                f"steps are {list(steps)}, expected numbers from 0 to {NUM_TRAIN_TIMESTEPS}"
            )
        table = [*self.timesteps.tolist(), 0.0]
        return [table[NUM_TRAIN_TIMESTEPS - step] for step in steps]

    def steps(self, denoising_step_list: Sequence[int], *, warp: bool) -> DenoisingSteps:
        """The steps of a published list.

        A list that ends with 0 loses it: that would be the clean pass.

        warp: whether the list counts table entries (Self-Forcing) or is made of timesteps already
            (CausVid, 3 steps).
        """
        numbers = list(denoising_step_list)
        if numbers and numbers[-1] == 0:
            numbers.pop()
        if not numbers:
            raise ValueError(
                "denoising_step_list is empty; expected falling numbers such as 1000, 750, 500, 250"
            )
        timesteps = self.warp(numbers) if warp else [float(number) for number in numbers]
        sigmas = self.sigma(torch.tensor(timesteps)).tolist()
        return DenoisingSteps(tuple(timesteps), tuple(sigmas))

    def training_weights(self) -> Tensor:
        """Weight of each table entry in a training loss: a bell over the timesteps, mean 1.

        float32 [num_steps].

        As in DiffSynth-Studio and the trainers of CausVid and Self-Forcing.
        """
        centred = (self.timesteps - NUM_TRAIN_TIMESTEPS / 2) / NUM_TRAIN_TIMESTEPS
        bell = torch.exp(-2.0 * centred**2)
        bell = bell - bell.min()
        return bell * (NUM_TRAIN_TIMESTEPS / bell.sum())


def _per_latent(sigma: Tensor | float, latents: Tensor) -> Tensor:
    """Sigma, a number, [B] or [B, F], as a tensor that broadcasts over latents."""
    if not isinstance(sigma, Tensor):  # made on the device: a copy would wait for it
        return torch.full((), sigma, device=latents.device)
    sigma = sigma.to(latents.device)
    return sigma.reshape(sigma.shape + (1,) * (latents.ndim - sigma.ndim)) if sigma.ndim else sigma


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """Move clean latents to noise level sigma: (1 - sigma) * clean + sigma * noise.

    clean, noise, result: [B, F, C, H, W].  sigma: 0 (clean) to 1 (noise), a number, [B] or [B, F].
    Rectified flow, Liu et al. 2022, arXiv:2209.03003, eq. 1.
    """
    level = _per_latent(sigma, clean).to(clean.dtype)
    return (1.0 - level) * clean + level * noise


def to_clean(latents: Tensor, flow: Tensor, sigma: Tensor | float) -> Tensor:
    """Clean latents that a flow points to: latents - sigma * flow, in float64 and cast back.

    latents, flow, result: [B, F, C, H, W].  sigma: the noise level of the latents, a number, [B] or
        [B, F].
    """
    level = _per_latent(sigma, latents).double()
    return (latents.double() - level * flow.double()).to(latents.dtype)


def to_flow(latents: Tensor, clean: Tensor, sigma: Tensor | float) -> Tensor:
    """The flow from clean latents to these: (latents - clean) / sigma, in float64 and cast back.

    latents, clean, result: [B, F, C, H, W].  sigma: above 0, a number, [B] or [B, F].
    """
    level = _per_latent(sigma, latents).double()
    return ((latents.double() - clean.double()) / level).to(latents.dtype)


def euler_step(
    latents: Tensor, flow: Tensor, sigma: Tensor | float, sigma_next: Tensor | float
) -> Tensor:
    """Move along the flow to another noise level: latents + flow * (sigma_next - sigma).

    latents, flow, result: [B, F, C, H, W].  sigma, sigma_next: a number, [B] or [B, F].
    """
    step = _per_latent(sigma_next, latents) - _per_latent(sigma, latents)
    return latents + flow * step.to(latents.dtype)


def block_noise(
    seed: int,
    block: int,
    draw: int,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Gaussian noise that depends on nothing but its arguments.

    seed: of the stream.  block: index of the block in the stream.  draw: 0 for the start, k for the
        k-th re-noising.
    Drawn on the host, so that the device does not matter.
    """
    mixed = 0
    for number in (seed, block, draw):
        mixed = _splitmix64(mixed ^ (number & _MASK))
    generator = torch.Generator("cpu").manual_seed(mixed >> 1)
    noise = torch.randn(*shape, generator=generator, dtype=torch.float32)
    return noise.to(device=device, dtype=dtype)


def _splitmix64(number: int) -> int:
    """Scatter 64 bits.

    Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


Model = Callable[[Tensor, Tensor, PromptKV, StreamingContext], Tensor]


@dataclass(frozen=True)
class Solved:
    """What the steps of one block led to, both [B, F, C, H, W].

    sample: the latents at the last step's noise level, just before the jump to clean.
    """

    clean: Tensor
    sample: Tensor


def denoise_block(
    model: Model,
    steps: DenoisingSteps,
    noise: Callable[[int], Tensor],
    text: PromptKV,
    context: StreamingContext,
    context_timestep: float = 0.0,
) -> Tensor:
    """Make the next block of a stream: from noise to clean latents, their keys into the context.

    noise: draw -> [B, F, C, H, W]; draw 0 is where the block starts, draw k is mixed in after the
        k-th step.
    context_timestep: what the last pass is told; its input is clean whatever it says.
    result: clean latents [B, F, C, H, W].
    """
    clean = solve_block(model, steps, noise, text, context).clean
    write_block(model, clean, text, context, context_timestep)
    return clean


def solve_block(
    model: Model,
    steps: DenoisingSteps,
    noise: Callable[[int], Tensor],
    text: PromptKV,
    context: StreamingContext,
    begun: Tensor | None = None,
) -> Solved:
    """The steps of the next block, without the clean pass; see denoise_block.

    The block is left open: what the last step wrote into the context becomes history with
    `context.commit()`, or is overwritten by `write_block`.
    begun: the flow of the first step, where `write_and_begin` has taken it already.
    """
    solver = BlockSolver(steps, noise, begun)
    context.begin(solver.num_frames)
    while solver.num_left:
        solver.advance(model, text, context)
    return solver.solved


class BlockSolver:
    """The steps of one block, one after the other, with pauses wherever they are wanted.

    Whoever takes the steps opens the block in the context before the first one, and takes all of
    them under one text.  noise, begun: see solve_block.
    """

    def __init__(
        self, steps: DenoisingSteps, noise: Callable[[int], Tensor], begun: Tensor | None = None
    ) -> None:
        self._steps = steps
        self._noise = noise
        self._begun = begun
        self._unipc = UniPC(steps.sigmas) if steps.solver == "unipc" else None
        self._latents = self._clean = self._sample = noise(0)
        self._step = 0

    @property
    def num_frames(self) -> int:
        """Latent frames of the block."""
        return self._clean.shape[1]

    @property
    def num_left(self) -> int:
        """How many steps are still to be taken."""
        return len(self._steps.timesteps) - self._step

    @property
    def solved(self) -> Solved:
        """What the steps so far led to."""
        return Solved(self._clean, self._sample)

    def advance(self, model: Model, text: PromptKV, context: StreamingContext) -> None:
        """Take the next step."""
        step, latents = self._step, self._latents
        timestep, sigma = self._steps.timesteps[step], self._steps.sigmas[step]
        if step > 0 and self._unipc is None:
            latents = add_noise(self._clean, self._noise(step), sigma)
        self._sample = latents
        if step > 0 or self._begun is None:
            flow = model(latents, _told(timestep, latents), text, context)
        else:
            flow = self._begun
        self._clean = to_clean(latents, flow, sigma)
        if self._unipc is not None:
            self._latents = self._unipc.step(latents, self._clean)
            self._sample = self._unipc.sample
        self._step += 1


def write_block(
    model: Model,
    clean: Tensor,
    text: PromptKV,
    context: StreamingContext,
    context_timestep: float = 0.0,
) -> None:
    """Make given clean latents the newest history of a context: one pass, its flow unused.

    clean: [B, F, C, H, W].

    The last step of every block; and alone, how a stream is restored, extended, or recached under a
    new prompt.
    """
    context.begin(clean.shape[1])
    model(clean, _told(context_timestep, clean), text, context)
    context.commit()


def write_and_begin(
    model: Model,
    clean: Tensor,
    noise: Tensor,
    timestep: float,
    text: PromptKV,
    context: RollingContext,
    context_timestep: float = 0.0,
) -> Tensor:
    """`write_block` for one block and the first step of the next one, as a single pass over both.

    The next block sees the clean keys of this one, which every layer writes before it attends; this
    block sees nothing of the next.  To rounding it is the same as one after the other, with twice
    the tokens to fill a GPU with.

    clean, noise: [B, F, C, H, W].  timestep: of the first step.
    text: of both blocks, or `this.beside(next)`.
    result: the flow of the first step, for `solve_block`; without it nothing but the first step is
    lost, and this block is history all the same.
    """
    context.begin_pair(clean.shape[1])
    told = torch.stack([_told(context_timestep, clean), _told(timestep, noise)], dim=1)
    flow = model(torch.cat([clean, noise], dim=1), told, text, context)
    context.commit()
    return flow[:, clean.shape[1] :]


def recache_together(
    model: Model,
    clean: Tensor,
    text: PromptKV,
    context: RollingContext,
    context_timestep: float = 0.0,
    *,
    keeps_sinks: bool = True,
) -> None:
    """Write the window's keys again under another text, in one pass that sees all of it.

    This is LongLive's recache (Yang et al. 2025, arXiv:2509.22622): its frames see each other in
    both directions, and that is what its checkpoint was trained with.  Other models do better with
    one `write_block` per block, whose keys are as they would have been made.

    clean: the newest clean latents [B, F, C, H, W], as many as the window holds, or all there are.
    keeps_sinks: whether sinks that the window has left behind keep their keys (LongLive's
        `global_sink`); otherwise the first frames of `clean` become the sinks.
    """
    first = context.next_position - clean.shape[1]
    if keeps_sinks and context.num_frames > clean.shape[1]:
        # The oldest frames of the window give way to the sinks, and nothing would see their keys.
        clean = clean[:, context.layout.sink :]
        context.reopen(clean.shape[1])
    else:
        context.reset(first)
    write_block(model, clean, text, context, context_timestep)


def _told(timestep: float, latents: Tensor) -> Tensor:
    """One timestep for the whole batch, as the model takes it: float32 [B]."""
    return torch.full((latents.shape[0],), timestep, device=latents.device)
