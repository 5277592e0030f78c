"""How subjects move: every motion a closed formula of time.

At t = 0 every motion begins near the middle, upright: a first picture that its text nearly settles
can be drawn sharp in a few steps; what is open afterwards, the past settles.

Knows nothing of pictures.  Lengths are in picture heights, angles in radians, clockwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from streamer.distill.full.vocabulary import HEADED, HEADINGS, MOTIONS

NEAR_GROUND, FAR_GROUND = 0.925, 0.755
"""Where things stand that are nearest (z = 0), and farthest (z = 1)."""
FARNESS = 0.60
"""How much smaller the farthest are."""
WATER_SINK = 0.13
"""How deep a thing lies in the water, in its own lengths."""
_BACK, _LEAVE_S = 9.0, 3.6


@dataclass(frozen=True)
class Temper:
    """How a kind of thing moves.

    pace: how fast, against a walker.  step: height of its steps.  sway: how much it rocks.
    rate: steps, radians a second.  hovers: rests in the air.  swims: rests in the water.
    """

    pace: float = 1.0
    step: float = 0.014
    sway: float = 0.05
    rate: float = 5.5
    hovers: bool = False
    swims: bool = False


TEMPERS: Final[dict[str, Temper]] = {
    "walker": Temper(),
    "hopper": Temper(step=0.03),
    "crawler": Temper(pace=0.6, step=0.004, sway=0.03, rate=8.0),
    "bird": Temper(step=0.012, sway=0.06, rate=7.0),
    "duck": Temper(pace=0.8, step=0.006, sway=0.05),
    "insect": Temper(step=0.010, sway=0.08, rate=9.0, hovers=True),
    "fish": Temper(step=0.010, sway=0.07, rate=4.0, swims=True),
    "dragon": Temper(step=0.02, sway=0.05, rate=3.5),
    "car": Temper(pace=1.15, step=0.003, sway=0.008, rate=11.0),
    "boat": Temper(pace=0.9, step=0.004, sway=0.05, rate=1.7),
    "aircraft": Temper(pace=1.15, step=0.004, sway=0.02, rate=3.0, hovers=True),
    "drifter": Temper(pace=0.7, step=0.012, sway=0.06, rate=2.2, hovers=True),
    "sky": Temper(pace=0.7, step=0.008, sway=0.04, rate=1.8, hovers=True),
    "ball": Temper(pace=1.1, step=0.012, sway=0.05),
    "plant": Temper(pace=0.7, step=0.012, sway=0.06, rate=3.0),
    "food": Temper(pace=0.8, step=0.018, sway=0.11, rate=5.0),
    "thing": Temper(pace=0.8, step=0.018, sway=0.11, rate=5.0),
    "building": Temper(pace=0.6, step=0.010, sway=0.05, rate=3.5),
}


@dataclass(frozen=True)
class Tempers:
    """TEMPERS of the whole cast as a table: each [S]; hovers and swims 0 or 1."""

    pace: Tensor
    step: Tensor
    sway: Tensor
    rate: Tensor
    hovers: Tensor
    swims: Tensor

    @classmethod
    def of(cls, kinds: Sequence[str]) -> Tempers:
        """The tempers of subjects, on the CPU."""
        chosen = [TEMPERS[kind] for kind in kinds]
        columns = zip(*(vars(temper).values() for temper in chosen), strict=True)
        return cls(*(torch.tensor(column, dtype=torch.float32) for column in columns))

    def at(self, subject: Tensor) -> Tempers:
        """The tempers of some subjects."""
        return Tempers(*(column[subject] for column in vars(self).values()))


@dataclass(frozen=True)
class Pose:
    """Where subjects are; tensors of one shape.

    x: the middle.  z: 0 near to 1 far.  lift: height above where it would rest.  aloft: 0 on the
    ground to 1 in the air.  turn: radians.  heading: the way it faces, -1 left to 1 right.
    stretch: longer and thinner above 0.  presence: 0 (absent) to 1.
    """

    x: Tensor
    z: Tensor
    lift: Tensor
    aloft: Tensor
    turn: Tensor
    heading: Tensor
    stretch: Tensor
    presence: Tensor

    def towards(self, other: Pose, weight: Tensor) -> Pose:
        """The pose between this one (weight 0) and another (weight 1)."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        between = Pose(*(torch.lerp(mine, yours, weight) for mine, yours in pairs))
        # Who has turned many times turns back by the nearest way.
        sin = torch.lerp(torch.sin(self.turn), torch.sin(other.turn), weight)
        cos = torch.lerp(torch.cos(self.turn), torch.cos(other.turn), weight)
        return replace(between, turn=torch.atan2(sin, cos))


@dataclass(frozen=True)
class Actor:
    """What a pose is computed from; tensors of one shape, the class numbers long.

    size: of its sprite.  place: its middle where it rests.  depth: its z there.  phase, pace:
    chance numbers in 0..1 that stay for a clip.  medium: 0 ground, 1 water, 2 sea, 3 void.
    """

    motion: Tensor
    heading: Tensor
    temper: Tempers
    size: Tensor
    place: Tensor
    depth: Tensor
    phase: Tensor
    pace: Tensor
    medium: Tensor
    t: Tensor
    aspect: float


def _smooth(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def strike_pose(actor: Actor) -> Pose:
    """Where every actor is."""
    t, pace = actor.t, 0.85 + 0.3 * actor.pace
    still = torch.zeros_like(t)
    heading = torch.where(actor.heading == 0, -1.0, torch.where(actor.heading == 1, 1.0, 0.0))
    inward = (actor.heading == HEADINGS.index("away")).to(t) - (
        actor.heading == HEADINGS.index("towards")
    ).to(t)
    shown = torch.where(heading == 0, 1.0, heading)
    steps = actor.temper.rate * pace * t
    awake = 1 - torch.exp(-4 * t)  # nothing is squashed in the first picture
    beat = torch.sin(steps)
    step, sway = actor.temper.step, actor.temper.sway
    hop = torch.sin(2.9 * pace * t).abs()
    cycle = torch.remainder(t / 1.1, 1.0)
    flight = ((cycle - 0.25) / 0.6).clamp(0, 1)
    leap = (torch.floor(t / 1.1) + _smooth(flight)) * 0.30
    wheel = 1.5 * pace * t
    zig = torch.asin(torch.sin(2.4 * pace * t)) * (2 / math.pi)
    going = pace * actor.temper.pace * t
    wave = 1 - torch.cos(1.3 * pace * t)
    slope = torch.sin(1.3 * pace * t)
    away = _absence(t)
    seen = torch.remainder(t, 6.5)
    shows = _smooth(seen / 0.7) * _smooth((5.2 - seen) / 0.7)
    rolled = 0.34 * going / (0.42 * actor.size)
    breath = 0.015 * torch.sin(2.2 * t + 6.28 * actor.phase)
    whole = torch.ones_like(t)
    in_sea = (actor.medium == 2).to(t)
    # distance gone, lift, turn towards the heading, plain turn, stretch, presence
    acts: dict[str, tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]] = {
        "rests": (still, still, still, still, breath, whole),
        "walks": (0.22 * going, step * beat.abs(), still, sway * beat, 0.3 * breath, whole),
        "runs": (
            0.44 * going, 2.4 * step * torch.sin(1.6 * steps).abs(), 0.07 * awake,
            1.2 * sway * torch.sin(1.6 * steps), 0.05 * torch.sin(3.2 * steps), whole,
        ),
        "flies": (0.32 * going, 0.045 * wave, -0.16 * slope, still, breath, whole),
        "floats": (
            still, 0.05 * torch.sin(1.3 * pace * t), still, 0.09 * torch.sin(t), breath, whole,
        ),
        "swims": (
            0.26 * going, 0.035 * torch.sin(1.9 * pace * t), -0.10 * torch.sin(1.9 * pace * t),
            0.07 * torch.sin(4.5 * t), 0.04 * torch.sin(4.5 * t), whole,
        ),
        "bounces": (
            still, 0.30 * hop, still, still,
            awake * (0.10 * hop * (1 - hop) - 0.17 * torch.exp(-((hop / 0.22) ** 2))), whole,
        ),
        "jumps": (
            leap, 1.04 * flight * (1 - flight), still, still,
            awake * (0.14 * (4 * flight * (1 - flight)) * (1 - flight)
                     - 0.15 * torch.sin(math.pi * (cycle / 0.25).clamp(0, 1))), whole,
        ),
        "rolls": (0.34 * going, still, rolled, still, still, whole),
        "spins": (still, 0.12 + still, still, 2.4 * pace * t, still, whole),
        "circles": (still, still, -0.10 * torch.sin(wheel), sway * beat, still, whole),
        "zigzags": (0.27 * going, step * beat.abs(), still, sway * beat, still, whole),
        "chases": (
            0.42 * going, 2.4 * step * torch.sin(1.6 * steps).abs(), 0.06 * awake,
            1.2 * sway * torch.sin(1.6 * steps), 0.05 * torch.sin(3.2 * steps), whole,
        ),
        "appears": (still, still, still, still, 0.12 * torch.sin(3 * math.pi * shows), shows),
        "leaves": (still, step * beat.abs(), still, sway * beat, still, whole),
    }  # fmt: skip
    table = torch.stack([torch.stack(acts[name]) for name in MOTIONS])  # [motions, 6, ...]
    index = actor.motion[None, None].expand(1, table.shape[1], *actor.motion.shape)
    gone, lift, lean, turn, stretch, presence = table.gather(0, index)[0].unbind(0)

    def does(*names: str) -> Tensor:
        numbers = torch.tensor([MOTIONS.index(name) for name in names], device=t.device)
        return (actor.motion[..., None] == numbers).any(-1)

    headed = torch.tensor([name in HEADED for name in MOTIONS], device=t.device)[actor.motion]
    sideways = torch.where(headed, heading, still)
    inward = torch.where(headed, inward, still)
    span = actor.aspect + 1.1 * actor.size
    start = actor.place + 0.55 * actor.size
    across = torch.remainder(start + sideways * gone, span) - 0.55 * actor.size
    deep = torch.remainder(0.36 + inward * 0.42 * gone + actor.depth, 1.0)
    fading = _smooth(deep / 0.07) * _smooth((1 - deep) / 0.10)
    is_deep = inward != 0
    z = torch.where(is_deep, deep * 1.08 - 0.10, actor.depth)
    presence = torch.where(is_deep & ~does("leaves"), presence * fading, presence)
    # Those who leave go out by their side, into the distance or past us, and come back.
    leaving = does("leaves")
    reach = actor.aspect / 2 + actor.size
    across = torch.where(leaving, actor.place + sideways * reach * away, across)
    z = torch.where(leaving & is_deep, actor.depth + away * (0.55 * inward + 0.20), z)
    presence = torch.where(leaving & is_deep, presence * _smooth((1 - away) / 0.15), presence)
    circling = does("circles")
    x = torch.where(circling, actor.place + 0.46 * torch.sin(wheel), across)
    x = torch.where(does("floats"), x + 0.07 * torch.sin(0.8 * pace * t), x)
    z = torch.where(circling, z + 0.26 * (1 - torch.cos(wheel)), z)
    weaving = does("zigzags")
    z = torch.where(weaving, (z + 0.25 * zig).clamp(min=-0.08), z)
    backs = leaving & (torch.remainder(t, _BACK) > _LEAVE_S + 1.0)
    faces = torch.where(circling, (5 * torch.cos(wheel)).clamp(-1, 1) * shown, shown)
    faces = torch.where(backs, -faces, faces)
    aloft = torch.maximum(actor.temper.hovers, does("flies", "floats").to(t))
    aloft = torch.maximum(aloft, torch.maximum(actor.temper.swims, does("swims").to(t)) * in_sea)
    aloft = torch.maximum(aloft, (actor.medium == 3).to(t))
    lift = lift + torch.where(weaving, 0.10 * zig * aloft, still)
    lift = lift + torch.where(circling, 0.10 * (1 - torch.cos(wheel)) * aloft, still)
    lift = lift + 0.010 * aloft * torch.sin(1.7 * t)
    afloat = (actor.medium == 1).to(t) * (1 - aloft)
    lift = lift + 0.008 * afloat * torch.sin(1.6 * t)
    turn = turn + lean * torch.where(sideways == 0, shown, sideways)
    turn = turn + 0.035 * afloat * torch.sin(1.2 * t)
    return Pose(x, z, lift, aloft, turn, faces, stretch, presence)


def _absence(t: Tensor) -> Tensor:
    """How far away those are who leave: out after some seconds, then back; 0 at t = 0."""
    s = torch.remainder(t, _BACK)
    return _smooth((s - 0.6) / (_LEAVE_S - 0.6)) - _smooth((s - _LEAVE_S - 1.2) / 3.2)
