"""The full edition's pictures: classes that differ, motions that do what they say, no read-back."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from streamer.distill.atlas import find_atlas, load_atlas
from streamer.distill.captions import sample_pair
from streamer.distill.edition import SceneSpec, load_edition
from streamer.distill.full.cast import PROPS, load_members
from streamer.distill.full.motions import TEMPERS, Actor, Pose, Tempers, strike_pose
from streamer.distill.full.places import PLACES
from streamer.distill.full.vocabulary import HEADINGS, MOTIONS, SCENES
from streamer.distill.world import Renderer, Shot, sample_specs

FULL = load_edition("full")
HEIGHT, WIDTH = 48, 80
ORDINARY = {
    "scene": "meadow", "time": "day", "weather": "clear", "subject": "none", "motion": "rests",
    "heading": "right", "number": "one", "companion": "none", "camera": "still",
}  # fmt: skip


def spec(**names: str) -> SceneSpec:
    return SceneSpec(*(FULL.number(a, name) for a, name in (ORDINARY | names).items()))


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(FULL, height=HEIGHT, width=WIDTH)


def render(renderer: Renderer, specs: list[SceneSpec], t: float = 1.0) -> torch.Tensor:
    return renderer.render(specs, [3] * len(specs), 1, start_s=t)[:, 0].float()


def test_every_place_is_painted() -> None:
    assert set(PLACES) == set(SCENES)


@pytest.mark.parametrize(("attribute", "least"), [("scene", 8.0), ("time", 8.0), ("weather", 0.6)])
def test_classes_look_different(renderer: Renderer, attribute: str, least: float) -> None:
    names = FULL.attributes[attribute]
    base = {"time": "night"} if attribute == "weather" else {}
    clips = render(renderer, [spec(**base, **{attribute: name}) for name in names], 0.9)
    apart = torch.cdist(clips.flatten(1), clips.flatten(1), p=1) / clips[0].numel()
    apart.fill_diagonal_(torch.inf)
    first, second = divmod(int(apart.argmin()), len(names))
    assert apart.min() > least, f"{names[first]} and {names[second]} differ by {apart.min():.2f}"


def test_every_subject_is_seen(renderer: Renderer) -> None:
    names = FULL.attributes["subject"][:-1]
    clips = render(renderer, [spec(subject=name) for name in names], 0.0)
    covered = ((clips - render(renderer, [spec()], 0.0)).abs().amax(1) > 24).float().mean((1, 2))
    assert covered.min() > 0.008, names[int(covered.argmin())]


def test_the_same_spec_and_seed_show_the_same_world_whenever_a_clip_starts(
    renderer: Renderer,
) -> None:
    specs = sample_specs(FULL, 8, torch.Generator().manual_seed(3))
    whole = renderer.render(specs, list(range(8)), 20)
    tail = renderer.render(specs, list(range(8)), 4, start_s=1.0)
    # Batches are cut elsewhere; vectorised and scalar loops may round one 8-bit level apart.
    assert (whole[:, 16:].int() - tail.int()).abs().max() <= 1


def test_a_clip_does_not_depend_on_its_companions(renderer: Renderer) -> None:
    specs = sample_specs(FULL, 12, torch.Generator().manual_seed(4))
    together = renderer.render(specs, list(range(12)), 3, start_s=2.0).int()
    for number in range(12):
        alone = renderer.render([specs[number]], [number], 3, start_s=2.0).int()
        # A zoom of 1 resamples; sprites are drawn into larger patches: two levels at most.
        assert (together[number] - alone[0]).abs().max() <= 2, specs[number]


def test_a_morph_begins_at_the_old_world_and_has_no_jump(renderer: Renderer) -> None:
    old = sample_specs(FULL, 16, torch.Generator().manual_seed(5))
    new = sample_specs(FULL, 16, torch.Generator().manual_seed(6))
    calm = [replace(s, weather=0, camera=0) for s in old], [replace(s, weather=0) for s in new]
    seeds = list(range(16))
    morph = renderer.render(calm[0], seeds, 24, switch_to=calm[1], switch_s=[0.25] * 16)
    before = renderer.render(calm[0], seeds, 5)
    assert (morph[:, :5].int() - before.int()).abs().max() <= 2
    steps = morph.float().diff(dim=1).abs().mean((2, 3, 4))
    cut = (morph[:, 4].float() - morph[:, 21].float()).abs().mean((1, 2, 3))
    assert (steps.amax(1) < 0.45 * cut + 2).all()


def test_a_morph_ends_at_the_new_world(renderer: Renderer) -> None:
    new = [spec(scene="city", subject="taxi", time="night"), spec(scene="lake", subject="swan")]
    old = [spec(scene="space", time="night", subject="robot", motion="spins"), spec()]
    other = [spec(scene="ocean"), spec(scene="farm", subject="cow", number="three")]
    ends = [
        renderer.render(past, [7, 8], 4, start_s=3.0, switch_to=new, switch_s=[1.0, 1.0]).int()
        for past in (old, other)
    ]
    assert (ends[0] - ends[1]).abs().max() <= 1


def test_while_painting_nothing_is_read_back_and_nothing_is_uploaded(renderer: Renderer) -> None:
    """On a GPU each of these operations would make the host wait, or copy from it."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            name = func.name().removeprefix("aten::")
            assert not name.startswith(
                ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "item")
            ), name
            return func(*args, **(kwargs or {}))

    generator = torch.Generator().manual_seed(9)
    old, new = (sample_specs(FULL, 40, generator) for _ in range(2))
    numbers = [torch.tensor([list(vars(s).values()) for s in specs]) for specs in (old, new)]
    shot = Shot(
        *numbers, torch.rand(40, generator=generator), torch.linspace(0, 20, 40),
        torch.linspace(0, 1, 40), torch.rand(40, 24, generator=generator),
    )  # fmt: skip
    painter = renderer._painter
    paint = painter.prepare(shot)
    with Watch():
        frames = paint(slice(0, 40))
    assert frames.shape == (40, WIDTH, 3, HEIGHT)
    assert torch.isfinite(frames).all()


def test_no_clips_render_to_empty_video(renderer: Renderer) -> None:
    assert renderer.render([], [], 4).shape == (0, 4, 3, HEIGHT, WIDTH)


# ---- motions ------------------------------------------------------------------------------------

NUM_TIMES = 240


def move(motion: str, heading: str = "right", kind: str = "walker", medium: int = 0) -> Pose:
    """A pose every eighth of a second for 30 seconds."""
    t = torch.arange(NUM_TIMES) / 8
    same = torch.ones(NUM_TIMES)
    tempers = Tempers.of([kind])
    return strike_pose(
        Actor(
            motion=torch.full((NUM_TIMES,), MOTIONS.index(motion)),
            heading=torch.full((NUM_TIMES,), HEADINGS.index(heading)),
            temper=tempers.at(torch.zeros(NUM_TIMES, dtype=torch.long)),
            size=0.36 * same, place=0.8 * same, depth=0.1 * same, phase=0.4 * same,
            pace=0.5 * same, medium=torch.full((NUM_TIMES,), medium), t=t,
            aspect=1.6,
        )
    )  # fmt: skip


@pytest.mark.parametrize("kind", list(TEMPERS))
@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_begins_near_the_middle_upright(motion: str, kind: str) -> None:
    for heading in HEADINGS:
        pose = move(motion, heading, kind)
        assert abs(float(pose.x[0]) - 0.8) < 0.02
        assert abs(float(pose.turn[0])) < 0.01
        assert abs(float(pose.stretch[0])) < 0.02
        assert 0 <= float(pose.z[0]) < 0.55
        for values in vars(pose).values():
            assert torch.isfinite(values).all()


@pytest.mark.parametrize("motion", ["walks", "runs", "flies", "swims", "rolls", "zigzags", "jumps"])
def test_headings_go_where_they_say(motion: str) -> None:
    assert (move(motion, "left").x.diff() <= 1e-4).float().mean() > 0.9
    assert (move(motion, "right").x.diff() >= -1e-4).float().mean() > 0.9
    if motion != "zigzags":
        assert (move(motion, "towards").z.diff() <= 1e-4).float().mean() > 0.85
        assert (move(motion, "away").z.diff() >= -1e-4).float().mean() > 0.85
    assert (move(motion, "left").heading == -1).all()


def test_motions_do_what_they_say() -> None:
    assert move("rests").x.std() < 1e-3
    assert move("runs").x.diff().abs().median() > 1.6 * move("walks").x.diff().abs().median()
    assert move("bounces").lift.max() > 0.25
    assert move("jumps").lift.max() > 0.2
    assert move("flies").aloft.min() == 1
    assert move("walks").aloft.max() == 0
    assert move("swims", kind="fish", medium=2).aloft.min() == 1
    assert move("spins").turn[-1] > 40
    assert move("rolls").turn[-1] > 10
    assert move("rolls", "left").turn[-1] < -10
    circles = move("circles")
    assert circles.x.std() > 0.2
    assert circles.z.std() > 0.1
    assert move("zigzags").z.std() > 0.08
    assert move("appears").presence.min() == 0
    assert move("appears").presence.max() == 1
    assert move("leaves").x.max() > 1.6 + 0.1
    assert move("leaves", "away").presence.min() < 0.05


def test_who_is_chased_stays_ahead(renderer: Renderer) -> None:
    pair = spec(subject="fox", companion="rabbit", motion="chases", heading="right")
    alone = [spec(subject="fox", motion="runs"), spec(subject="rabbit", motion="runs")]
    assert render(renderer, [pair], 0.5).std() > 0
    apart = (render(renderer, [pair], 0.5) - render(renderer, alone[:1], 0.5)).abs().mean()
    assert apart > 0.5


@pytest.mark.parametrize("camera", ["pans left", "pans right", "rises", "zooms in", "zooms out"])
def test_cameras_move_what_does_not_move(renderer: Renderer, camera: str) -> None:
    still, moving = spec(scene="village"), spec(scene="village", camera=camera)
    # Clouds drift for both; the ground is still unless the camera moves.
    rows = slice(round(0.8 * HEIGHT), None)
    gap = (render(renderer, [still], 4.0) - render(renderer, [still], 0.0))[:, :, rows].abs().mean()
    moved = (render(renderer, [moving], 4.0) - render(renderer, [moving], 0.0))[:, :, rows]
    assert gap < 0.2
    assert moved.abs().mean() > 2


def test_pairs_of_captions_render(renderer: Renderer) -> None:
    chance = random.Random(2)
    specs = [sample_pair(FULL, chance)[0] for _ in range(24)]
    video = renderer.render(specs, list(range(24)), 2, start_s=[float(i) for i in range(24)])
    assert (video.float().std((1, 2, 3, 4)) > 4).all()


# ---- the cast -----------------------------------------------------------------------------------


def test_the_committed_sheet_shows_the_cast_and_its_licences() -> None:
    plan = find_atlas("full")
    atlas = load_atlas(plan)
    assert len(load_members()) > 300
    assert len(atlas.sprites) == len(load_members()) + len(PROPS)
    assert (atlas.sprites[:, :3] <= atlas.sprites[:, 3:] + 1e-6).all()
    assert (atlas.sprites[:, 3].mean((1, 2)) > 0.08).all()
    notice = (plan.folder / "NOTICE").read_text()
    assert "Microsoft" in notice
    assert "Unicode" in notice
    assert sum(path.stat().st_size for path in plan.folder.iterdir()) < 8 * 2**20


def test_members_are_of_known_kinds_and_sizes() -> None:
    for member in load_members():
        assert member.kind in TEMPERS
        assert 0.2 <= member.size <= 0.6
        assert member.facing in (-1, 0, 1)
