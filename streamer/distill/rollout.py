"""Rollouts: clips that the student makes block after block through its own cache, with gradients.

Self-Forcing (Huang et al. 2025, arXiv:2506.08009, algorithm 1): training meets what serving meets,
the student's own history.  Gradients go through the last denoising step only, which is drawn at
random, and never into earlier blocks.  Blocks before those that are judged are made without any
gradient, in all steps, so that a rollout may be longer than its window; and the text may change
before the judged blocks, with the window recached, as LongLive trains it (arXiv:2509.22622).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from streamer.distill.draws import draw_noise
from streamer.models.cache import RingLayout
from streamer.models.context import UnrolledContext
from streamer.models.sampler import DenoisingSteps, add_noise, to_clean, write_block
from streamer.models.transformer import CausalWanTransformer, PromptKV


@dataclass(frozen=True)
class RolloutPlan:
    """What is made.

    history: blocks that are made first, without gradients.  judged: blocks after them, at least 1.
    is_switched: the text changes between the two, and the window is recached.  batch: clips.
    depth: the step at which judged blocks stop, from 0; the serving steps before it are made, too.
    """

    history: int
    judged: int
    is_switched: bool
    batch: int
    depth: int


@dataclass(frozen=True)
class Rollout:
    """What was made.

    history: [B, P, C, H, W], what the first judged block could see; P may be 0.  made: [B, F, C, H,
    W], the judged blocks.  text: [B, K, E], what they were told.  begins: whether a scene begins
    with the first of them: nothing is behind it, or the text has changed.
    """

    history: Tensor
    made: Tensor
    text: Tensor
    begins: bool

    def detached(self) -> Rollout:
        """The same without gradients."""
        return replace(self, made=self.made.detach())


@dataclass(frozen=True)
class Roller:
    """Makes rollouts of one student.

    shape: C, H, W of a latent frame.  context_timestep: what the pass that writes history is told.
    """

    network: CausalWanTransformer
    layout: RingLayout
    steps: DenoisingSteps
    shape: tuple[int, int, int]
    context_timestep: float = 0.0

    def roll(
        self,
        plan: RolloutPlan,
        before: Tensor,
        after: Tensor,
        generator: torch.Generator,
        with_gradients: bool = True,
    ) -> Rollout:
        """Make what a plan says.

        before, after: text embeddings [B, K, E] of the history and of the judged blocks; `before`
            is not used unless the text changes.  generator: on the CPU; all noise comes from it.
        """
        with torch.set_grad_enabled(with_gradients):
            keys = self.network.encode_text(after)
        context = self._new_context()
        seen: list[Tensor] = []
        if plan.history:
            with torch.no_grad():
                told = self.network.encode_text(before) if plan.is_switched else keys
                for _ in range(plan.history):
                    latents = self._denoise(plan.batch, told, context, generator)
                    self._write(latents, told, context)
                    seen.append(latents)
                if plan.is_switched:
                    context = self._new_context()
                    for latents in self._recached(seen):
                        self._write(latents, keys, context)
                seen = self._visible(seen)
        made = []
        for _ in range(plan.judged):
            with torch.set_grad_enabled(with_gradients):
                latents = self._denoise(plan.batch, keys, context, generator, plan.depth)
            made.append(latents)
            if len(made) < plan.judged:
                with torch.no_grad():
                    self._write(latents.detach(), keys, context)
        empty = after.new_zeros(plan.batch, 0, *self.shape)
        return Rollout(
            torch.cat(seen, 1) if seen else empty,
            torch.cat(made, 1),
            after,
            plan.history == 0 or plan.is_switched,
        )

    def _denoise(
        self,
        batch: int,
        text: PromptKV,
        context: UnrolledContext,
        generator: torch.Generator,
        depth: int | None = None,
    ) -> Tensor:
        """One block, by the steps up to `depth`; gradients, if enabled, in the last of them only.

        result: the clean latents that the last step points to.
        """
        last = len(self.steps.sigmas) - 1 if depth is None else depth
        latents = self._noise(batch, text, generator)
        context.begin(self.layout.block)
        for step in range(last + 1):
            sigma = self.steps.sigmas[step]
            if step > 0:
                latents = add_noise(latents, self._noise(batch, text, generator), sigma)
            told = torch.full((batch,), self.steps.timesteps[step], device=latents.device)
            with torch.set_grad_enabled(torch.is_grad_enabled() and step == last):
                flow = self.network(latents, told, text, context)
                latents = to_clean(latents, flow, sigma)
        return latents

    def _noise(self, batch: int, text: PromptKV, generator: torch.Generator) -> Tensor:
        size = (batch, self.layout.block, *self.shape)
        return draw_noise(size, generator, text.k.device)

    def _new_context(self) -> UnrolledContext:
        return UnrolledContext(self.network.config.num_caches, self.layout)

    def _write(self, clean: Tensor, text: PromptKV, context: UnrolledContext) -> None:
        write_block(self.network, clean, text, context, self.context_timestep)

    def _visible(self, blocks: list[Tensor]) -> list[Tensor]:
        """Of all blocks made, those of which the next one will see something, sinks first."""
        block = self.layout.block
        end = len(blocks) * block
        seen = {frame // block for frame in self.layout.visible(end + block) if frame < end}
        return [blocks[index] for index in sorted(seen)]

    def _recached(self, blocks: list[Tensor]) -> list[Tensor]:
        """Of all blocks made, those that a stream still holds when its text changes."""
        sinks = -(-self.layout.sink // self.layout.block)
        most = self.layout.num_slots // self.layout.block
        if len(blocks) <= most:
            return blocks
        return [*blocks[:sinks], *blocks[len(blocks) - (most - sinks) :]]
