"""Captions: what they mention is true, what they leave out is ordinary."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from streamer.distill.captions import (
    caption,
    held_out_combination,
    natural_motions,
    natural_scenes,
    sample_pair,
)
from streamer.distill.edition import SceneSpec, load_edition

SMALL = load_edition("small")
ATTRIBUTES = SMALL.attributes
NONE = SMALL.no_subject_number


def test_every_class_has_words() -> None:
    for attribute, names in ATTRIBUTES.items():
        assert set(SMALL.words[attribute]) == set(names) - {"none"}
        assert set(SMALL.held_out[attribute]) <= set(names)


def test_the_same_random_state_gives_the_same_pairs() -> None:
    first, second = random.Random(5), random.Random(5)
    assert [sample_pair(SMALL, first) for _ in range(20)] == [
        sample_pair(SMALL, second) for _ in range(20)
    ]


def test_a_mentioned_subject_is_named_by_its_own_words() -> None:
    chance = random.Random(1)
    for _ in range(500):
        spec, text = sample_pair(SMALL, chance)
        if "subject" in text.mentions and spec.subject != NONE:
            nouns = [
                w.split(" ", 1)[1] for w in SMALL.words["subject"][SMALL.name_of(spec, "subject")]
            ]
            assert any(noun in text.text for noun in nouns), text


def test_captions_are_clean_text() -> None:
    chance = random.Random(2)
    for held_out in (False, True):
        for _ in range(500):
            text = sample_pair(SMALL, chance, held_out)[1].text
            assert text
            assert text == " ".join(text.split())
            assert " ," not in text
            assert not text.endswith(",")


def test_short_captions_occur() -> None:
    chance = random.Random(3)
    texts = {sample_pair(SMALL, chance)[1].text for _ in range(4000)}
    assert {"a dog", "snow", "night falls", "sunset"} <= texts


def test_every_attribute_is_mentioned_and_left_out() -> None:
    chance = random.Random(4)
    counts = Counter(a for _ in range(1000) for a in sample_pair(SMALL, chance)[1].mentions)
    for attribute in ATTRIBUTES:
        assert 300 < counts[attribute] < 900, counts


def test_what_is_unsaid_is_ordinary() -> None:
    chance = random.Random(6)
    for _ in range(2000):
        spec, text = sample_pair(SMALL, chance)
        if "time" not in text.mentions:
            assert spec.time == 0
        if "weather" not in text.mentions:
            assert spec.weather == 0
        if "subject" not in text.mentions:
            assert spec.subject == NONE
        elif spec.subject != NONE and "motion" not in text.mentions:
            assert spec.motion in natural_motions(SMALL, spec.subject)
        if "scene" not in text.mentions:
            assert spec.scene in natural_scenes(SMALL, spec.subject)


def test_a_subject_alone_settles_where_it_is_and_what_it_does() -> None:
    """One answer each, which training always sees: what is open would be drawn as a blur."""
    for subject in range(NONE):
        (scene,), (motion,) = natural_scenes(SMALL, subject), natural_motions(SMALL, subject)
        assert not held_out_combination(SMALL, SceneSpec(scene, 0, 0, subject, motion))


def test_about_a_tenth_of_the_combinations_is_held_out() -> None:
    combinations = [
        SceneSpec(scene, time, 0, subject, 0)
        for scene in range(len(ATTRIBUTES["scene"]))
        for time in range(len(ATTRIBUTES["time"]))
        for subject in range(NONE)
    ]
    share = sum(held_out_combination(SMALL, spec) for spec in combinations) / len(combinations)
    assert 0.06 < share < 0.14
    assert not held_out_combination(SMALL, SceneSpec(0, 0, 0, NONE, 0))


@pytest.mark.parametrize("held_out", [False, True])
def test_pairs_keep_to_their_side_of_the_split(held_out: bool) -> None:
    chance = random.Random(7)
    for _ in range(200):
        assert held_out_combination(SMALL, sample_pair(SMALL, chance, held_out)[0]) == held_out


def test_training_never_uses_a_held_out_synonym() -> None:
    chance = random.Random(8)
    rare = {w for table in SMALL.held_out.values() for words in table.values() for w in words}
    texts = [f" {sample_pair(SMALL, chance)[1].text.replace(',', ' ')} " for _ in range(3000)]
    for word in rare:
        assert not any(f" {word} " in text for text in texts), word


def test_held_out_captions_use_held_out_synonyms() -> None:
    spec = SceneSpec(SMALL.number("scene", "forest"), 0, 0, SMALL.number("subject", "cat"), 0)
    chance = random.Random(9)
    texts = [caption(SMALL, spec, chance, held_out=True) for _ in range(100)]
    for text in texts:
        assert ("woodland" in text.text) == ("scene" in text.mentions)


def test_there_are_twelve_different_examples() -> None:
    assert len(set(SMALL.examples)) == 12
