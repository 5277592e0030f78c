"""Editions: vocabularies that hang together, and specs that can be."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamer.config import weights_path
from streamer.distill.captions import caption, held_out_combination, natural_motions, sample_pair
from streamer.distill.commands import distill
from streamer.distill.edition import (
    ABSENT,
    EDITIONS,
    Edition,
    SceneSpec,
    agree,
    find_edition,
    load_edition,
)
from streamer.distill.phrases import change_article, count_noun, pluralise, with_article
from streamer.errors import ConfigError
from streamer.models.text import split_words


@pytest.fixture(params=EDITIONS)
def edition(request: pytest.FixtureRequest) -> Edition:
    return load_edition(request.param)


@pytest.fixture(scope="module")
def full() -> Edition:
    return load_edition("full")


def test_the_full_edition_is_as_large_as_it_says(full: Edition) -> None:
    sizes = {name: len(classes) for name, classes in full.attributes.items()}
    assert sizes["scene"] >= 12
    assert sizes["time"] == 4
    assert sizes["weather"] >= 8
    assert sizes["subject"] > 300
    assert sizes["companion"] == sizes["subject"]
    assert sizes["motion"] == 15


def test_attributes_are_in_the_order_of_a_spec(edition: Edition) -> None:
    spec = SceneSpec(*range(1, 1 + len(edition.attributes)))
    assert [spec.of(name) for name in edition.attributes] == list(range(1, 1 + len(vars(spec))))[
        : len(edition.attributes)
    ]


def test_classes_have_names_of_their_own_and_words(edition: Edition) -> None:
    for attribute, classes in edition.attributes.items():
        assert len(set(classes)) == len(classes)
        words = edition.words[attribute]
        assert set(words) == set(classes) - {ABSENT}
        assert all(words.values())
        assert set(edition.held_out.get(attribute, {})) <= set(classes)
        assert set(edition.thesaurus.get(attribute, {})) <= set(classes)


def test_no_wording_names_two_classes(edition: Edition) -> None:
    for attribute, table in edition.words.items():
        said = [phrase for phrases in table.values() for phrase in dict.fromkeys(phrases)]
        twice = {phrase for phrase in said if said.count(phrase) > 1}
        assert not twice, f"{attribute}: {twice}"


def test_held_out_wordings_are_in_no_table_that_training_reads(edition: Edition) -> None:
    for attribute, table in edition.held_out.items():
        known = {
            phrase
            for words in (edition.words, edition.thesaurus, edition.openings)
            for phrases in words.get(attribute, {}).values()
            for phrase in phrases
        }
        rare = {phrase for phrases in table.values() for phrase in phrases}
        assert not rare & known


def test_habits_name_classes_of_the_world(edition: Edition) -> None:
    for table, attribute in (
        (edition.natural_motions, "motion"),
        (edition.natural_scenes, "scene"),
    ):
        assert set(table) <= set(edition.attributes["subject"])
        for names in table.values():
            assert set(names) <= set(edition.attributes[attribute])
    assert natural_motions(edition, edition.no_subject_number) == (0,)


def test_pairs_can_be_and_keep_to_their_side_of_the_split(edition: Edition) -> None:
    for held_out in (False, True):
        chance = random.Random(3)
        for _ in range(150):
            spec, said = sample_pair(edition, chance, held_out)
            assert agree(edition, spec) == spec
            assert held_out_combination(edition, spec) == held_out
            assert said.mentions <= set(edition.attributes)
            assert said.text == " ".join(said.text.split())


def test_training_never_says_a_held_out_wording(full: Edition) -> None:
    chance = random.Random(8)
    rare = {p for table in full.held_out.values() for phrases in table.values() for p in phrases}
    for _ in range(1500):
        text = f" {sample_pair(full, chance)[1].text.replace(',', ' ')} "
        assert not any(f" {phrase} " in text for phrase in rare), text


def test_there_is_no_weather_under_water_and_no_day_in_space(full: Edition) -> None:
    rain, day = full.number("weather", "rain"), full.number("time", "day")
    sea = SceneSpec(full.number("scene", "underwater"), day, rain, 5, 0)
    assert full.name_of(agree(full, sea), "weather") == "clear"
    space = SceneSpec(full.number("scene", "space"), day, 0, 5, 0)
    assert full.name_of(agree(full, space), "time") == "night"
    glowing = SceneSpec(0, day, full.number("weather", "fireflies"), 5, 0)
    assert full.name_of(agree(full, glowing), "time") == "night"


def test_nobody_is_chased_by_one_who_is_alone(full: Edition) -> None:
    chases = full.number("motion", "chases")
    alone = agree(full, SceneSpec(0, 0, 0, 5, chases))
    assert full.name_of(alone, "motion") == "runs"
    pair = SceneSpec(0, 0, 0, 5, chases, companion=9)
    assert agree(full, pair) == pair


def test_numbers_and_companions_are_said(full: Edition) -> None:
    dog, cat = full.number("subject", "dog"), full.number("companion", "cat")
    chance = random.Random(5)
    three = SceneSpec(0, 0, 0, dog, 0, number=2)
    texts = [caption(full, three, chance) for _ in range(200)]
    named = [said.text for said in texts if "subject" in said.mentions]
    assert all(any(n in text for n in ("dogs", "puppies")) for text in named)
    both = SceneSpec(0, 0, 0, dog, full.number("motion", "chases"), companion=cat)
    texts = [caption(full, both, chance) for _ in range(200)]
    named = [said.text for said in texts if "companion" in said.mentions]
    assert named
    assert all("cat" in text or "kitty" in text for text in named)
    assert all(any(w in text for w in ("chas", "runs after", "running after", "follow"))
               for text in named)  # fmt: skip


def test_every_example_uses_known_words(full: Edition) -> None:
    known = {
        word
        for table in full.words.values()
        for phrases in table.values()
        for phrase in phrases
        for word in split_words(phrase)
    }
    for text in full.examples:
        assert len(set(split_words(text)) & known) >= 0.6 * len(set(split_words(text))), text


def test_an_unknown_class_and_an_unknown_edition_are_named(full: Edition) -> None:
    with pytest.raises(ConfigError, match="no scene 'mars'"):
        full.number("scene", "mars")
    with pytest.raises(ConfigError, match="choose one of small, full"):
        load_edition("medium")


def test_an_edition_is_found_by_its_classes(edition: Edition) -> None:
    assert find_edition(dict(edition.attributes), "x") is edition
    assert json.loads(edition.signature())["time"] == list(edition.attributes["time"])
    with pytest.raises(ConfigError, match="of no edition"):
        find_edition({"time": ("noon",)}, "x.safetensors")


def test_the_vocabulary_command_prints_and_writes_the_listing(tmp_path: Path) -> None:
    out = tmp_path / "vocabulary.json"
    result = CliRunner().invoke(distill, ["vocabulary", "--edition", "full", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "penguin" in result.output
    tree = json.loads(out.read_text())
    assert tree["edition"] == "full"
    assert "a penguin" in tree["attributes"]["subject"]["penguin"]
    assert len(tree["examples"]) >= 12


def test_the_shipped_model_tells_what_can_be_said_to_it() -> None:
    shipped = weights_path("assets/storybook/vocabulary.json")
    assert json.loads(shipped.read_text()) == load_edition("small").listing()


@pytest.mark.parametrize(
    ("one", "many"),
    [("dog", "dogs"), ("puppy", "puppies"), ("goose", "geese"), ("bus", "buses"), ("fox", "foxes"),
     ("jar of honey", "jars of honey"), ("polar bear", "polar bears"), ("socks", "socks"),
     ("octopus", "octopuses"), ("wolf", "wolves"), ("donkey", "donkeys")],
)  # fmt: skip
def test_plurals(one: str, many: str) -> None:
    assert pluralise(one) == many


def test_articles() -> None:
    assert with_article("owl") == "an owl"
    assert with_article("unicorn") == "a unicorn"
    assert with_article("socks", is_plural=True) == "socks"
    assert count_noun("two", "an owl") == "two owls"
    assert change_article("spinning", "an owl") == "a spinning owl"
