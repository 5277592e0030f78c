"""Foreign patches: a render is familiar with its own world; a square of another one is noticed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from streamer.distill.edition import SceneSpec, load_edition
from streamer.distill.patches import PATCH_PX, Familiar, describe
from streamer.distill.world import Renderer

SMALL = load_edition("small")
CITY = SceneSpec(
    SMALL.number("scene", "city"),
    SMALL.number("time", "night"),
    SMALL.number("weather", "clear"),
    SMALL.no_subject_number,
    0,
)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(SMALL, "cpu", 96, 128)


@pytest.fixture(scope="module")
def familiar(renderer: Renderer) -> Familiar:
    return Familiar.of(renderer, CITY, 1)


def frames(renderer: Renderer, spec: SceneSpec) -> np.ndarray:
    clip = renderer.render([spec], [99], 4, start_s=21.0)[0]
    return clip.permute(0, 2, 3, 1).numpy().copy()


def test_another_render_of_the_prompt_is_not_foreign(renderer: Renderer, familiar: Familiar):
    found = familiar.look(frames(renderer, CITY))
    assert found.distance < 2
    assert found.share < 0.05


def test_a_few_patches_of_another_colour_are_noticed(renderer: Renderer, familiar: Familiar):
    soiled = frames(renderer, CITY)
    own = familiar.look(soiled)
    soiled[:, :PATCH_PX, : 5 * PATCH_PX] = (150, 60, 200)  # 5 of 48 patches, in the sky
    found = familiar.look(soiled)
    assert found.distance > 3 * max(1.0, own.distance)
    assert found.share == pytest.approx(own.share + 5 / 48, abs=0.03)


def test_another_place_is_foreign(renderer: Renderer, familiar: Familiar):
    desert = replace(CITY, scene=SMALL.number("scene", "desert"), time=0)
    assert familiar.look(frames(renderer, desert)).share > 0.5


def test_a_patch_is_the_means_of_its_quarters():
    picture = torch.zeros(1, 3, 37, 50, dtype=torch.uint8)
    picture[:, 0, :8, 8:16] = 200
    patches = describe(picture)
    assert patches.shape == (1, 2, 3, 12)
    assert patches[0, 0, 0].tolist() == [0, 100, 0, 0] + [0] * 8
    assert not patches[0, 1].any()
