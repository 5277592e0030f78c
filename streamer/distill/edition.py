"""An edition of the storybook world: what can be shown in it and how that is said.

`small` is the world of the first shipped weights: 20 subjects, one at a time.  `full` is the world
that new models are trained on.  The vocabulary is a value that renderer, captions, text encoder and
judge are given, so that weights of one edition never meet the words of another.

Knows nothing of pictures and draws nothing by chance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

from streamer.errors import ConfigError

Phrases = Mapping[str, tuple[str, ...]]
"""Wordings of each class."""

EDITIONS: Final = ("small", "full")
ABSENT: Final = "none"
"""The class of the subject, and of the companion, that is not there."""


@dataclass(frozen=True)
class SceneSpec:
    """What a clip shows: a class number for each attribute of an edition.

    The small edition has the first five only and leaves the others at 0.
    """

    scene: int
    time: int
    weather: int
    subject: int
    motion: int
    heading: int = 0
    number: int = 0
    companion: int = 0
    camera: int = 0

    def of(self, attribute: str) -> int:
        """The class number of an attribute."""
        number: int = vars(self)[attribute]
        return number


@dataclass(frozen=True)
class Edition:
    """A vocabulary.  Immutable; shared by all who render, read or judge this world.

    attributes: the classes of everything that a clip settles, in the order of the text encoder's
    slots; "none" is the last subject and the first companion.
    words: every wording that training uses, nouns with their article; openings: further ones for
    captions that name no subject; held_out: wordings that training never uses.
    thesaurus: further ones for the text encoder alone: what the world lacks becomes what it has.
    verbs: how a subject is said to move, by motion and subject, instead of `words`; gaits: a
    subject's verbs before "left" and "right".  headed: motions that go somewhere.
    natural_motions, natural_scenes: what one expects of a subject when nothing is said.
    calm_scenes have no weather, dark_scenes no day; night_weathers are seen in the dark only.
    favourites: subjects that are drawn more often.
    naturalness: share of clips whose subject is where it belongs and does what it does.
    text_length, text_width: of the text encoder.
    """

    name: str
    attributes: Mapping[str, tuple[str, ...]]
    words: Mapping[str, Phrases]
    openings: Mapping[str, Phrases]
    held_out: Mapping[str, Phrases]
    thesaurus: Mapping[str, Phrases]
    no_subject: tuple[str, ...]
    natural_motions: Phrases
    natural_scenes: Phrases
    examples: tuple[str, ...]
    changes: tuple[tuple[str, str], ...]
    text_length: int
    text_width: int
    verbs: Mapping[str, Phrases] = field(default_factory=dict)
    gaits: Phrases = field(default_factory=dict)
    headed: frozenset[str] = frozenset()
    calm_scenes: frozenset[str] = frozenset()
    dark_scenes: frozenset[str] = frozenset()
    night_weathers: frozenset[str] = frozenset()
    favourites: tuple[str, ...] = ()
    naturalness: float = 0.0

    def number(self, attribute: str, name: str) -> int:
        """The class number of a name.  Raises ConfigError for a name that is not in the world."""
        try:
            return self.attributes[attribute].index(name)
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"the {self.name} edition has no {attribute} {name!r}; "
                f"see `streamer distill vocabulary --edition {self.name}`"
            ) from error

    def name_of(self, spec: SceneSpec, attribute: str) -> str:
        """The name of what a spec says of an attribute."""
        return self.attributes[attribute][spec.of(attribute)]

    @property
    def no_subject_number(self) -> int:
        """The class number of the subject that is not there."""
        return len(self.attributes["subject"]) - 1

    def listing(self) -> dict[str, object]:
        """The vocabulary as JSON has it, for pages that tell what can be said."""
        return {
            "edition": self.name,
            "attributes": {
                attribute: {
                    name: list(dict.fromkeys(self.words[attribute].get(name, ())))
                    for name in classes
                    if name != ABSENT
                }
                for attribute, classes in self.attributes.items()
            },
            "examples": list(self.examples),
        }

    def signature(self) -> str:
        """The classes as JSON text; weights carry it, so that they know their world again."""
        return json.dumps({name: list(classes) for name, classes in self.attributes.items()})


def agree(edition: Edition, spec: SceneSpec) -> SceneSpec:
    """The nearest spec that can be: no rain under water, no day in space, nobody to chase."""
    scene = edition.name_of(spec, "scene")
    if scene in edition.calm_scenes:
        spec = replace(spec, weather=0)
    dark = edition.name_of(spec, "weather") in edition.night_weathers
    if scene in edition.dark_scenes or (dark and spec.time < edition.number("time", "sunset")):
        spec = replace(spec, time=edition.number("time", "night"))
    if spec.subject == edition.no_subject_number:
        return replace(spec, motion=0, heading=0, number=0, companion=0)
    if spec.companion:
        return replace(spec, number=0)
    if edition.name_of(spec, "motion") == "chases":
        return replace(spec, motion=edition.number("motion", "runs"))
    return spec


@cache
def load_edition(name: str) -> Edition:
    """An edition by its name.  Raises ConfigError for another name."""
    if name == "small":
        from streamer.distill.small.vocabulary import SMALL

        return SMALL
    if name == "full":
        from streamer.distill.full.vocabulary import build_vocabulary

        return build_vocabulary()
    raise ConfigError(f"edition {name!r}: there is none; choose one of {', '.join(EDITIONS)}")


def find_edition(classes: Mapping[str, tuple[str, ...]], where: str) -> Edition:
    """The edition that has exactly these classes, for weights that name theirs.

    where: the weights, for the error.  Raises ConfigError when there is none.
    """
    for name in EDITIONS:
        edition = load_edition(name)
        if dict(edition.attributes) == dict(classes):
            return edition
    raise ConfigError(
        f"{where}: its classes are those of no edition ({', '.join(EDITIONS)}); "
        "train it again with `streamer distill text`"
    )
