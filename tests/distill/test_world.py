"""The storybook world: the same world at any time, unmistakable classes, smooth morphs."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from streamer.distill.atlas import CAST, SMALL_PLAN, build_atlas, load_atlas, shrink
from streamer.distill.edition import load_edition
from streamer.distill.world import Renderer, SceneSpec, sample_specs

HEIGHT, WIDTH = 64, 96
SMALL = load_edition("small")
ATTRIBUTES = SMALL.attributes
SUBJECTS = ATTRIBUTES["subject"]
PLAIN = SceneSpec(0, 0, 0, len(SUBJECTS) - 1, 0)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(SMALL, height=HEIGHT, width=WIDTH)


def spec(**names: str) -> SceneSpec:
    return replace(PLAIN, **{key: ATTRIBUTES[key].index(name) for key, name in names.items()})


def test_a_clip_has_the_promised_shape_and_type(renderer: Renderer) -> None:
    video = renderer.render([PLAIN, spec(scene="city")], [1, 2], 3)
    assert video.shape == (2, 3, 3, HEIGHT, WIDTH)
    assert video.dtype == torch.uint8


def test_no_clips_and_no_frames_render_to_empty_video(renderer: Renderer) -> None:
    assert renderer.render([], [], 4).shape == (0, 4, 3, HEIGHT, WIDTH)
    assert renderer.render([PLAIN], [1], 0).shape == (1, 0, 3, HEIGHT, WIDTH)


def test_the_same_spec_and_seed_show_the_same_world_whenever_a_clip_starts(
    renderer: Renderer,
) -> None:
    specs = sample_specs(SMALL, 6, torch.Generator().manual_seed(3))
    seeds = list(range(6))
    whole = renderer.render(specs, seeds, 24)
    tail = renderer.render(specs, seeds, 8, start_s=1.0)
    assert torch.equal(whole[:, 16:], tail)


def test_a_clip_does_not_depend_on_its_companions(renderer: Renderer) -> None:
    specs = sample_specs(SMALL, 5, torch.Generator().manual_seed(4))
    together = renderer.render(specs, [5, 6, 7, 8, 9], 5)
    alone = renderer.render(specs[3:4], [8], 5)
    # Vectorised and scalar loops may round one 8-bit level apart.
    assert (together[3:4].int() - alone.int()).abs().max() <= 1


def test_seeds_begin_at_the_same_place_and_go_to_others(renderer: Renderer) -> None:
    begin, later = (
        renderer.render([spec(scene="city")] * 2, [1, 2], 1, start_s=start_s).float()
        for start_s in (0.0, 20.0)
    )
    assert (begin[0] - begin[1]).abs().mean() < 1
    assert (later[0] - later[1]).abs().mean() > 5


@pytest.mark.parametrize("attribute", ["scene", "time", "weather"])
def test_classes_look_different(renderer: Renderer, attribute: str) -> None:
    names = ATTRIBUTES[attribute]
    clips = renderer.render([spec(**{attribute: name}) for name in names], [3] * len(names), 1)
    for first, second in itertools.combinations(range(len(names)), 2):
        difference = (clips[first].float() - clips[second].float()).abs().mean()
        assert difference > 8, f"{names[first]} and {names[second]} differ by {difference:.1f}"


def test_every_subject_is_large_and_unlike_the_others(renderer: Renderer) -> None:
    names = SUBJECTS[:-1]
    clips = renderer.render([spec(subject=name) for name in names], [3] * len(names), 1).float()
    empty = renderer.render([PLAIN], [3], 1).float()
    covered = ((clips - empty).abs().amax(2) > 24).float().mean((1, 2, 3))
    assert covered.min() > 0.02
    apart = torch.cdist(clips.flatten(1), clips.flatten(1), p=1) / clips[0].numel()
    apart.fill_diagonal_(torch.inf)
    assert apart.min() > 0.8


def centre(renderer: Renderer, motion: str, subject: str = "dog") -> torch.Tensor:
    """Where the subject is in each of 16 frames half a second apart: [16, 2] as x, y in pixels."""
    moving = spec(subject=subject, motion=motion)
    starts = [0.5 * i for i in range(16)]
    clips = renderer.render([moving] * 16, [11] * 16, 1, start_s=starts).float()
    empty = renderer.render([PLAIN] * 16, [11] * 16, 1, start_s=starts).float()
    # Shadows only darken a little; the threshold leaves the sprite itself.
    mass = ((clips - empty).abs().amax(2)[:, 0] > 100).float()
    total = mass.sum((1, 2)).clamp(min=1)
    x = (mass.sum(1) * torch.arange(WIDTH)).sum(1) / total
    y = (mass.sum(2) * torch.arange(HEIGHT)).sum(1) / total
    return torch.stack([x, y], 1)


def test_motions_go_where_their_names_say(renderer: Renderer) -> None:
    left = centre(renderer, "moves left").diff(dim=0)[:, 0]
    right = centre(renderer, "moves right").diff(dim=0)[:, 0]
    assert (left < -1).sum() > 8
    assert (right > 1).sum() > 8
    assert centre(renderer, "rests").std(0).max() < 2
    assert centre(renderer, "bounces").std(0)[1] > 3
    assert centre(renderer, "circles").std(0).min() > 4
    assert centre(renderer, "floats")[:, 1].mean() < centre(renderer, "rests")[:, 1].mean() - 8


def test_spinning_turns_the_picture(renderer: Renderer) -> None:
    clip = renderer.render([spec(subject="robot", motion="spins")], [2], 16).float()
    assert (clip[:, 0] - clip[:, 12]).abs().mean() > 3


def test_a_morph_begins_at_the_old_world_and_ends_at_the_new_one(renderer: Renderer) -> None:
    new = sample_specs(SMALL, 8, torch.Generator().manual_seed(6))

    def unlike(steps: int) -> list[SceneSpec]:
        """Specs whose scenes and motions are others than those of `new`."""
        return [
            replace(
                spec,
                scene=(spec.scene + steps) % len(SMALL.attributes["scene"]),
                motion=(spec.motion + steps) % len(SMALL.attributes["motion"]),
            )
            for spec in new
        ]

    old, seeds = unlike(1), list(range(8))
    morph = renderer.render(old, seeds, 40, switch_to=new, switch_s=[0.5] * 8).int()
    # Whole frames of a batch share vectorised loops, which may round one level apart.
    assert (morph[:, :9] - renderer.render(old, seeds, 9).int()).abs().max() <= 1
    # A new motion begins with the change, so it is another old world's end that must be the same.
    after = renderer.render(
        unlike(2), seeds, 16, start_s=1.5, switch_to=new, switch_s=[0.5] * 8
    ).int()
    assert (morph[:, 24:] - after).abs().max() <= 1


def test_a_morph_has_no_jump(renderer: Renderer) -> None:
    old = sample_specs(SMALL, 12, torch.Generator().manual_seed(7))
    new = sample_specs(SMALL, 12, torch.Generator().manual_seed(8))
    clips = renderer.render(old, list(range(12)), 24, switch_to=new, switch_s=[0.2] * 12).float()
    steps = clips.diff(dim=1).abs().mean((2, 3, 4))
    cut = (clips[:, 0] - clips[:, -1]).abs().mean((1, 2, 3))
    assert (steps.amax(1) < 0.4 * cut).all()


def test_lists_of_different_lengths_are_refused(renderer: Renderer) -> None:
    with pytest.raises(ValueError, match="2 specs, 1 seeds"):
        renderer.render([PLAIN, PLAIN], [1], 1)
    with pytest.raises(ValueError, match="given together"):
        renderer.render([PLAIN], [1], 1, switch_s=[0.0])


def test_a_picture_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="height=8"):
        Renderer(SMALL, height=8, width=96)


def test_sampled_specs_reach_every_class() -> None:
    specs = sample_specs(SMALL, 400, torch.Generator().manual_seed(1))
    for attribute, names in ATTRIBUTES.items():
        assert {spec.of(attribute) for spec in specs} == set(range(len(names)))


def test_the_committed_atlas_holds_the_cast_and_its_licence() -> None:
    atlas = load_atlas(SMALL_PLAN)
    assert atlas.sprites.shape[0] == len(CAST) == len(SUBJECTS) - 1
    assert (atlas.sprites[:, :3] <= atlas.sprites[:, 3:] + 1e-6).all()
    assert "MIT License" in (SMALL_PLAN.folder / "NOTICE").read_text()
    assert sum(path.stat().st_size for path in SMALL_PLAN.folder.iterdir()) < 400_000


def test_an_atlas_of_another_cast_is_refused(tmp_path: Path) -> None:
    (tmp_path / "atlas.json").write_text(json.dumps({"sprites": [{"name": "dragon"}]}))
    with pytest.raises(ValueError, match="shows another cast"):
        load_atlas(SMALL_PLAN, tmp_path)


def test_shrinking_keeps_the_hue_of_edges() -> None:
    red_on_transparent_green = Image.new("RGBA", (8, 8), (0, 255, 0, 0))
    red_on_transparent_green.paste((255, 0, 0, 255), (0, 0, 3, 8))
    small = shrink(red_on_transparent_green, (4, 4))
    assert small.getpixel((1, 1)) == (255, 0, 0, 128)


def test_building_names_the_missing_picture(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=CAST[0].code):
        build_atlas(SMALL_PLAN, tmp_path, tmp_path / "out")


def test_building_centres_every_sprite(tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    for member in CAST:
        picture = Image.new("RGBA", (64, 64))
        picture.paste((200, 40, 40, 255), (0, 0, 60, 30))
        picture.save(assets / f"{member.code}.webp", lossless=True)
    build_atlas(SMALL_PLAN, tmp_path, tmp_path / "out")
    atlas = load_atlas(SMALL_PLAN, tmp_path / "out")
    # 60 x 30 scaled to fit 92 pixels is 46 high: 23 pixels below the middle of a 96 pixel cell.
    assert atlas.half_height.tolist() == pytest.approx([23 / 96] * len(CAST), abs=1.1 / 96)
