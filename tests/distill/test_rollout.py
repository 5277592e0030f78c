"""A rollout is the stream that serves, and its gradient is that of its last step."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from streamer.distill.rollout import Roller, RolloutPlan
from streamer.models.cache import RingLayout
from streamer.models.rolling import RollingContext
from streamer.models.sampler import FlowMatchTable, denoise_block, write_block
from streamer.models.transformer import CausalWanTransformer
from tests.distill.tiny import LAYOUT, SHAPE, SIZES, STEPS, network

BEFORE = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
AFTER = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(2))


def served(
    model: CausalWanTransformer, layout: RingLayout, plan: RolloutPlan, seed: int
) -> list[Tensor]:
    """The same blocks, made as the server makes them: ring, steps, recache."""
    generator = torch.Generator().manual_seed(seed)
    shape = SIZES.cache_shape(*SHAPE[1:], batch=plan.batch)
    context = RollingContext(shape, layout)
    told, new = model.encode_text(BEFORE), model.encode_text(AFTER)
    made: list[Tensor] = []

    def noise(_draw: int) -> Tensor:
        return torch.randn(plan.batch, layout.block, *SHAPE, generator=generator)

    for index in range(plan.history + plan.judged):
        if plan.is_switched and index == plan.history:
            held = made[-(layout.num_slots // layout.block) :]
            context.reset((index - len(held)) * layout.block)
            for latents in held:
                write_block(model, latents, new, context)
        is_old = plan.is_switched and index < plan.history
        made.append(denoise_block(model, STEPS, noise, told if is_old else new, context))
    return made


@pytest.mark.parametrize(
    "plan",
    [
        RolloutPlan(0, 1, False, 2, 2),
        RolloutPlan(2, 2, False, 2, 2),
        RolloutPlan(2, 1, True, 2, 2),
        RolloutPlan(6, 2, True, 2, 2),
    ],
    ids=["beginning", "longer", "changed", "rolled and changed"],
)
def test_a_rollout_of_full_depth_is_the_stream_that_serves(plan: RolloutPlan):
    model = network().requires_grad_(False)
    seed = 3
    rollout = Roller(model, LAYOUT, STEPS, SHAPE).roll(
        plan, BEFORE, AFTER, torch.Generator().manual_seed(seed)
    )
    wanted = served(model, LAYOUT, plan, seed)
    # The two contexts agree to rounding in float32, and three steps of some blocks add it up.
    close = partial(torch.testing.assert_close, atol=2e-4, rtol=1e-3)
    close(rollout.made, torch.cat(wanted[plan.history :], 1))
    seen = min(plan.history, LAYOUT.num_slots // LAYOUT.block - 1)
    assert rollout.history.shape[1] == seen * LAYOUT.block
    if seen:
        close(rollout.history, torch.cat(wanted[plan.history - seen : plan.history], 1))
    assert rollout.begins == (plan.history == 0 or plan.is_switched)


class Split(nn.Module):
    """A network that uses other weights in passes with gradients, to nudge those passes alone."""

    def __init__(self, base: CausalWanTransformer, nudged: CausalWanTransformer) -> None:
        super().__init__()
        self.base, self.nudged = base, nudged
        self.config = base.config
        self.encode_text = base.encode_text

    def forward(self, *inputs: object) -> Tensor:
        return (self.nudged if torch.is_grad_enabled() else self.base)(*inputs)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("history", [0, 3])
def test_its_gradient_is_that_of_the_last_step_by_finite_differences(depth: int, history: int):
    base, nudged = network().double(), network().double()
    roller = Roller(Split(base, nudged), LAYOUT, STEPS, SHAPE)  # type: ignore[arg-type]
    probe = torch.randn(2, 2, *SHAPE, dtype=torch.float64)
    weight = nudged.blocks[0].ffn[0].weight
    direction = torch.randn_like(weight)

    def measure() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        plan = RolloutPlan(history, 1, history > 0, 2, depth)
        made = roller.roll(plan, BEFORE.double(), AFTER.double(), generator).made
        return (made.double() * probe).sum()

    torch.set_default_dtype(torch.float64)  # noise is drawn in the default type
    try:
        loss = measure()
        (gradient,) = torch.autograd.grad(loss, weight)
        wanted = (gradient * direction).sum()
        step = 1e-5
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(sign * step * direction)
            sides.append(measure().item())
            with torch.no_grad():
                weight.sub_(sign * step * direction)
    finally:
        torch.set_default_dtype(torch.float32)
    assert wanted.item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5)
    assert abs(wanted.item()) > 1e-4


def test_gradients_do_not_reach_earlier_blocks():
    model = network()
    roller = Roller(model, LAYOUT, FlowMatchTable(1.0).steps([1000], warp=False), SHAPE)
    plan = RolloutPlan(0, 2, False, 2, 0)

    def gradient_of(block: slice) -> Tensor:
        made = roller.roll(plan, BEFORE, AFTER, torch.Generator().manual_seed(0)).made
        (found,) = torch.autograd.grad(made[:, block].square().sum(), model.head.head.bias)
        return found

    # The head's bias reaches a block through its own flow only: d made / d bias = -1.
    made = roller.roll(plan, BEFORE, AFTER, torch.Generator().manual_seed(0)).made
    second = made[:, 2:].detach()
    patches = second.unfold(3, 2, 2).unfold(4, 2, 2)  # [B, F, C, h, w, 2, 2]
    wanted = -2 * patches.sum((0, 1, 3, 4)).permute(1, 2, 0).flatten()
    torch.testing.assert_close(gradient_of(slice(2, 4)), wanted, atol=1e-3, rtol=1e-3)


def test_nothing_is_differentiated_when_no_gradients_are_wanted():
    rollout = Roller(network(), LAYOUT, STEPS, SHAPE).roll(
        RolloutPlan(1, 1, True, 2, 2), BEFORE, AFTER, torch.Generator().manual_seed(0), False
    )
    assert not rollout.made.requires_grad
    assert not rollout.history.requires_grad
