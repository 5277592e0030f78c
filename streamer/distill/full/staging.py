"""Who stands where in every frame, and how the camera looks at it: from class numbers to numbers.

Computed for all frames of a call at once, on the device, before any is painted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from streamer.distill.edition import Edition
from streamer.distill.full.motions import Actor, Pose, strike_pose
from streamer.distill.full.scenery import Scenery
from streamer.distill.full.stage import Marks, Stage
from streamer.distill.world import Shot

_PAN = 0.09
"""How fast the camera pans, picture heights per second."""
_PERIOD_S, _OUT_S = 12.0, 9.0
"""Rising and zooming take so long, and the way back the rest."""
_ZOOM = 0.26
_SCENE, _SUBJECT, _MOTION, _HEADING, _NUMBER, _COMPANION, _CAMERA = 0, 3, 4, 5, 6, 7, 8
# Where a group stands: by how many they are and by the place in the group, x and z.
_X = ((0.0, 0.0, 0.0), (-0.27, 0.27, 0.0), (0.02, -0.50, 0.48))
_Z = ((0.04, 0.0, 0.0), (0.05, 0.20, 0.0), (0.02, 0.24, 0.34))
_CHASE_X = (-0.36, 0.36, 0.0)


@dataclass(frozen=True)
class View:
    """The camera: x, where it is; after: where it is in the new scenery; rise: 0..1; zoom: from 1.

    [N] each.
    """

    x: Tensor
    after: Tensor
    rise: Tensor
    zoom: Tensor

    def rows(self, which: slice) -> View:
        """Some of the frames."""
        return View(*(column[which] for column in vars(self).values()))


def watch(shot: Shot, edition: Edition) -> View:
    """How the camera stands or moves; it never jumps when the prompt changes.

    Every place begins with the same view: what its text settles can be drawn sharp in a few steps.
    """
    names = edition.attributes["camera"]
    speeds = {"pans left": -_PAN, "pans right": _PAN}
    table = torch.tensor([speeds.get(name, 0.0) for name in names], device=shot.t.device)
    old, new = table[shot.old[:, _CAMERA]], table[shot.new[:, _CAMERA]]
    since = shot.since.clamp(min=0)
    x = old * shot.t + (new - old) * since * shot.change
    stays = shot.old[:, _SCENE] == shot.new[:, _SCENE]
    after = torch.where(stays, x, new * since)
    x = torch.where(stays | (shot.change < 1), x, after)
    same = shot.old[:, _CAMERA] == shot.new[:, _CAMERA]
    later = torch.where(same, shot.t, since)

    def swing(name: str) -> Tensor:
        number = names.index(name)
        before = (shot.old[:, _CAMERA] == number) * _swing(shot.t)
        after = (shot.new[:, _CAMERA] == number) * _swing(later)
        return torch.lerp(before, after, shot.change)

    is_out = torch.tensor([float(name == "zooms out") for name in names], device=shot.t.device)
    zoom = 1 + _ZOOM * (swing("zooms in") + shot.mix(is_out, _CAMERA) - swing("zooms out"))
    return View(x, after, swing("rises"), zoom)


def _swing(t: Tensor) -> Tensor:
    """0 at t = 0, slowly to 1, and back sooner."""
    s = torch.remainder(t, _PERIOD_S)
    there, back = s / _OUT_S, (_PERIOD_S - s) / (_PERIOD_S - _OUT_S)
    part = torch.minimum(there, back).clamp(0, 1)
    return part * part * (3 - 2 * part)


def cast_actors(
    shot: Shot, edition: Edition, stage: Stage, scenery: Scenery, aspect: float
) -> Marks:
    """Everybody in every frame, [N, 6]: three who were there before the change, three after it.

    A subject that stays is the same actor before and after; the old ones shrink away while the new
    ones grow, on the way between their poses.
    """
    absent = edition.no_subject_number
    old, new = _name_actors(shot.old, absent), _name_actors(shot.new, absent)
    first = torch.where(old == absent, new, old)
    last = torch.where(new == absent, old, new)
    since = shot.since.clamp(min=0)
    numbers = [_SUBJECT, _MOTION, _HEADING, _NUMBER, _COMPANION]
    goes_on = (shot.old[:, numbers] == shot.new[:, numbers]).all(1)
    later = torch.where(goes_on, shot.t, since)
    chases = edition.attributes["motion"].index("chases")
    before = _pose(shot, shot.old, first, shot.t, stage, scenery, chases, aspect)
    after = _pose(shot, shot.new, last, later, stage, scenery, chases, aspect)
    change = shot.change[:, None]
    pose = before.towards(after, change)
    same = old == new
    leaving = torch.where(same, torch.ones_like(pose.x), 1 - change)
    arriving = torch.where(same, torch.zeros_like(pose.x), change)
    afloat = shot.mix(scenery.places.afloat, _SCENE)[:, None]
    airy = shot.mix(scenery.places.airy, _SCENE)[:, None]
    groups = []
    for subject, share in ((old, leaving), (new, arriving)):
        shown = replace(pose, presence=pose.presence * share)
        groups.append(stage.place(subject, shown, afloat, airy))
    both = zip(*(vars(group).values() for group in groups), strict=True)
    return Marks(*(torch.cat(pair, 1) for pair in both))


def _name_actors(numbers: Tensor, absent: int) -> Tensor:
    """The subjects of the three places of a group: [N, 3]."""
    subject, companion = numbers[:, _SUBJECT], numbers[:, _COMPANION]
    has_companion = companion > 0
    second = torch.where(
        has_companion, companion - 1, torch.where(numbers[:, _NUMBER] > 0, subject, absent)
    )
    third = torch.where(~has_companion & (numbers[:, _NUMBER] > 1), subject, absent)
    group = torch.stack([subject, second, third], 1)
    return torch.where((subject == absent)[:, None], absent, group)


def _pose(
    shot: Shot, numbers: Tensor, subject: Tensor, t: Tensor, stage: Stage, scenery: Scenery,
    chases: int, aspect: float,
) -> Pose:  # fmt: skip
    device = t.device
    how_many = torch.where(numbers[:, _COMPANION] > 0, 1, numbers[:, _NUMBER])
    offset = torch.tensor(_X, device=device)[how_many]
    is_chase = (numbers[:, _MOTION] == chases)[:, None]
    side = torch.where(numbers[:, _HEADING] == 0, -1.0, 1.0)[:, None]
    offset = torch.where(is_chase, torch.tensor(_CHASE_X, device=device) * side, offset)
    fate = shot.fate[:, 4:8]
    turns = torch.arange(3, device=device) * 0.37
    place = aspect / 2 + offset.expand(len(t), -1)

    def each(values: Tensor) -> Tensor:
        return values[:, None].expand(-1, 3)

    phase = torch.remainder(fate[:, 1:2] + turns, 1.0)
    heading = numbers[:, _HEADING]
    # Who is chased runs ahead at the same pace; others keep their own.
    own = torch.where(is_chase, fate[:, 2:3], torch.remainder(fate[:, 2:3] + 0.5 * turns, 1.0))
    actor = Actor(
        motion=each(numbers[:, _MOTION]),
        heading=each(heading),
        temper=stage.tempers.at(subject),
        size=stage.size[subject],
        place=place,
        depth=torch.tensor(_Z, device=device)[how_many] + 0.05,
        phase=phase,
        pace=own,
        medium=each(scenery.places.medium[numbers[:, _SCENE]]),
        t=each(t),
        aspect=aspect,
    )
    return strike_pose(actor)
