"""Captions for the storybook world: many ways of saying what a clip shows.

Any part may go unsaid, in any order, with synonyms; what is unsaid is ordinary (a clear day, the
subject's natural place and motion).  A few synonyms and a tenth of the combinations never occur in
training, so that obedience can be judged on words and pairs the model has not seen.

Draws from a `random.Random` that the caller owns.  The words are the edition's; knows nothing of
pictures.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from streamer.distill.edition import ABSENT, Edition, Phrases, SceneSpec, agree
from streamer.distill.phrases import change_article, count_noun

HELD_OUT_SHARE = 0.1
_DIRECTED = ("moves left", "moves right")
_ALONE_SHARE, _ONE_SHARE, _STILL_SHARE, _CHASE_SHARE = 0.7, 0.75, 0.6, 0.25
_FAVOURITE_SHARE = 0.4
_ONE = ("a", "an")
_JOINTS = ("and", "and", "with", "next to", "beside", "together with", "in front of")
_CHASING = ("chases", "chasing", "runs after", "running after", "follows", "following")


@dataclass(frozen=True)
class Caption:
    """A caption and the attributes it speaks of (keys of the edition's attributes)."""

    text: str
    mentions: frozenset[str]


def held_out_combination(edition: Edition, spec: SceneSpec) -> bool:
    """Whether training never sees this (scene, subject) pair at this time of day.

    About a tenth of all combinations, the same on every machine.  Clips without a subject are
    never held out, nor is what a subject's name alone stands for.
    """
    if spec.subject == edition.no_subject_number:
        return False
    if spec.time == 0 and spec.scene in natural_scenes(edition, spec.subject):
        return False
    name = "/".join(edition.name_of(spec, part) for part in ("scene", "subject", "time"))
    return zlib.crc32(name.encode()) % 1000 < 1000 * HELD_OUT_SHARE


def natural_motions(edition: Edition, subject: int) -> tuple[int, ...]:
    """The motions one expects of a subject when nothing is said about it."""
    return _natural(edition, subject, "motion", edition.natural_motions)


def natural_scenes(edition: Edition, subject: int) -> tuple[int, ...]:
    """The scenes one expects a subject in when nothing is said about it."""
    return _natural(edition, subject, "scene", edition.natural_scenes)


def _natural(edition: Edition, subject: int, attribute: str, table: Phrases) -> tuple[int, ...]:
    names = table.get(edition.attributes["subject"][subject], ())
    return tuple(edition.number(attribute, name) for name in names) or (0,)


def caption(
    edition: Edition, spec: SceneSpec, rng: random.Random, *, held_out: bool = False
) -> Caption:
    """Describe a spec, leaving out what chance leaves out; something is always said.

    held_out: use synonyms that training never sees, wherever a class has one.
    """
    mentions = _choose_mentions(edition, spec, rng)
    return Caption(_Speaker(edition, spec, rng, held_out).say(mentions), mentions)


def sample_pair(
    edition: Edition, rng: random.Random, held_out: bool = False
) -> tuple[SceneSpec, Caption]:
    """Draw a spec together with its caption.

    What the caption leaves unsaid is ordinary: a clear day, the subject's natural motion and
    habitat, no subject where none is named.  held_out: combinations and synonyms that training
    never sees; otherwise only those that it may see.
    """
    while True:
        spec = SceneSpec(*(rng.randrange(len(names)) for names in edition.attributes.values()))
        if rng.random() < 0.06:
            spec = replace(spec, subject=edition.no_subject_number)
        if spec.subject == edition.no_subject_number:
            spec = replace(spec, motion=0)
        if edition.naturalness:
            spec = agree(edition, _tame(edition, spec, rng))
        mentions = _choose_mentions(edition, spec, rng)
        spec = _settle(edition, spec, mentions, rng)
        agreed = agree(edition, spec)
        if any(agreed.of(name) != spec.of(name) for name in mentions):
            continue  # what was left unsaid turned out against what is said
        if held_out_combination(edition, agreed) == held_out:
            text = _Speaker(edition, agreed, rng, held_out).say(mentions)
            return agreed, Caption(text, mentions)


def _tame(edition: Edition, spec: SceneSpec, rng: random.Random) -> SceneSpec:
    """Put the subject where it belongs, and mostly alone before a still camera."""
    if edition.favourites and rng.random() < _FAVOURITE_SHARE:
        spec = replace(spec, subject=edition.number("subject", rng.choice(edition.favourites)))
    if rng.random() < edition.naturalness:
        spec = replace(spec, scene=rng.choice(natural_scenes(edition, spec.subject)))
    if rng.random() < edition.naturalness:
        spec = replace(spec, motion=rng.choice(natural_motions(edition, spec.subject)))
    if rng.random() < _STILL_SHARE:
        spec = replace(spec, camera=0)
    if rng.random() < _ALONE_SHARE:
        number = 0 if rng.random() < _ONE_SHARE else spec.number
        return replace(spec, companion=0, number=number)
    if spec.companion and rng.random() < _CHASE_SHARE:
        spec = replace(spec, motion=edition.number("motion", "chases"))
    return spec


def _settle(
    edition: Edition, spec: SceneSpec, mentions: frozenset[str], rng: random.Random
) -> SceneSpec:
    """Make each unsaid attribute ordinary: what a text leaves to chance is drawn as a blur."""

    def unsaid(attribute: str) -> bool:
        return attribute not in mentions and attribute in edition.attributes

    if unsaid("subject"):
        spec = replace(spec, subject=edition.no_subject_number, motion=0, companion=0)
    if unsaid("scene"):
        spec = replace(spec, scene=rng.choice(natural_scenes(edition, spec.subject)))
    if unsaid("time"):
        spec = replace(spec, time=0)
    if unsaid("weather"):
        spec = replace(spec, weather=0)
    if unsaid("motion"):
        spec = replace(spec, motion=rng.choice(natural_motions(edition, spec.subject)))
    if unsaid("number"):
        spec = replace(spec, number=0)
    if unsaid("companion"):
        spec = replace(spec, companion=0)
    if unsaid("camera"):
        spec = replace(spec, camera=0)
    return spec


def _choose_mentions(edition: Edition, spec: SceneSpec, rng: random.Random) -> frozenset[str]:
    """Which attributes a caption speaks of: one in six captions speaks of a single one.

    A subject that is named is counted by its article or its number.
    """
    has_subject = spec.subject != edition.no_subject_number
    counted = "number" in edition.attributes
    is_calm = edition.name_of(spec, "scene") in edition.calm_scenes
    if rng.random() < 1 / 6:
        sky = ["time"] if is_calm else ["time", "weather"]
        single = ["scene", *sky, *(["subject"] * 3 if has_subject else [])]
        chosen = rng.choice(single)
        return frozenset([chosen, "number"] if counted and chosen == "subject" else [chosen])
    chances = {"scene": 0.85, "time": 0.6, "weather": 0.6, "subject": 0.9, "motion": 0.7}
    said = {name for name, chance in chances.items() if rng.random() < chance}
    if not has_subject and rng.random() < 0.6:
        said.discard("subject")
    if not has_subject or "subject" not in said:
        said.discard("motion")
    if is_calm:
        said.discard("weather")
    if counted:
        said |= _choose_more(edition, spec, said, rng)
    return frozenset(said or {"scene"})


def _choose_more(edition: Edition, spec: SceneSpec, said: set[str], rng: random.Random) -> set[str]:
    """What else is said where the edition knows of it: number, companion, heading, camera."""
    more: set[str] = set()
    if "subject" in said and spec.subject != edition.no_subject_number:
        more.add("number")
        motion = edition.name_of(spec, "motion")
        if spec.companion and (motion == "chases" or rng.random() < 0.85):
            more.add("companion")
        if "motion" in said and motion in edition.headed and rng.random() < 0.6:
            more.add("heading")
    if rng.random() < (0.7 if spec.camera else 0.05):
        more.add("camera")
    return more


class _Speaker:
    """Puts one spec into words.  Lives for one caption."""

    def __init__(
        self, edition: Edition, spec: SceneSpec, rng: random.Random, held_out: bool
    ) -> None:
        self.edition, self.spec, self.rng, self.held_out = edition, spec, rng, held_out

    def say(self, mentions: frozenset[str]) -> str:
        """The caption."""
        if "subject" not in mentions:
            text = self._view(mentions)
        else:
            text = self._arrange(self._head(mentions), self._parts(mentions))
        if "camera" in mentions:
            text = self._with_camera(text)
        return text

    def _name(self, attribute: str) -> str:
        return self.edition.name_of(self.spec, attribute)

    def _word(self, table: Mapping[str, Phrases], attribute: str, name: str | None = None) -> str:
        """One wording for one attribute of the spec, or for another class of it."""
        name = name or self._name(attribute)
        rare = self.edition.held_out[attribute].get(name, ()) if self.held_out else ()
        return self.rng.choice(rare or table[attribute][name])

    def _head(self, mentions: frozenset[str]) -> str:
        """Who, and what they do."""
        head = self.rng.choice(self.edition.no_subject)
        is_many = False
        if self._name("subject") != ABSENT:
            head = self._word(self.edition.words, "subject")
            is_many = self.spec.number > 0 or head.split()[0] not in _ONE
            if "number" in mentions and is_many:
                head = count_noun(self._word(self.edition.words, "number"), head)
        if "companion" in mentions:
            other = self._word(self.edition.words, "subject", self._name("companion"))
            if self._name("motion") == "chases":
                return f"{head} {self.rng.choice(_CHASING)} {other}{self._heading(mentions)}"
            joint = self.rng.choice(_JOINTS)
            if "motion" not in mentions or joint != "and":
                head = f"{head} {joint} {other}"
            else:
                head, is_many = f"{head} {joint} {other}", True
        if "motion" not in mentions:
            return head
        verb = self._moving(is_many) + self._heading(mentions)
        text = f"{head} {verb}"
        is_single = verb.endswith("ing") and " " not in verb
        if is_single and self.rng.random() < 0.3 and head.split()[0] in _ONE:
            return change_article(verb, head)
        return text

    def _moving(self, is_many: bool) -> str:
        """A wording for the motion, with the subject's own verb now and then."""
        name, subject = self._name("motion"), self._name("subject")
        gaits = self.edition.gaits.get(subject, ())
        if name in _DIRECTED and not self.held_out and self.rng.random() < 0.5:
            return f"{self.rng.choice(gaits)} {self.rng.choice(('', 'to the '))}{name.split()[1]}"
        own = self.edition.verbs.get(name, {}).get(subject, ())
        if own and not self.held_out and self.rng.random() < 0.8:
            options = own
        elif self.held_out and name in self.edition.held_out["motion"]:
            options = self.edition.held_out["motion"][name]
        else:
            options = self.edition.words["motion"][name]
        if is_many:  # "two dogs running", not "two dogs runs"
            options = tuple(o for o in options if o.split()[0].endswith("ing")) or options
        return self.rng.choice(options)

    def _heading(self, mentions: frozenset[str]) -> str:
        return f" {self._word(self.edition.words, 'heading')}" if "heading" in mentions else ""

    def _parts(self, mentions: frozenset[str]) -> list[str]:
        parts = []
        for attribute in ("scene", "time", "weather"):
            if attribute in mentions:
                parts.append(self._word(self.edition.words, attribute))
        if self.rng.random() < 0.5:
            self.rng.shuffle(parts)
        return parts

    def _arrange(self, head: str, parts: list[str]) -> str:
        rng = self.rng
        if parts and rng.random() < 0.15:
            front = parts.pop(rng.randrange(len(parts)))
            return f"{front}, {head} {' '.join(parts)}".strip()
        return head + "".join(f"{rng.choice((' ', ' ', ', '))}{part}" for part in parts)

    def _view(self, mentions: frozenset[str]) -> str:
        """Words for a caption that names no subject: "sunset over the ocean", "night falls"."""
        order = [name for name in ("weather", "time", "scene") if name in mentions]
        self.rng.shuffle(order)
        if not order:
            return self.rng.choice(self.edition.no_subject)
        if self.held_out:
            return ", ".join(self._word(self.edition.words, name) for name in order)
        text = self._word(self.edition.openings, order[0])
        for name in order[1:]:
            if self.rng.random() < 0.7:
                text += f" {self._word(self.edition.words, name)}"
            else:
                text += f", {self._word(self.edition.openings, name)}"
        return text

    def _with_camera(self, text: str) -> str:
        phrase = self._word(self.edition.words, "camera")
        return f"{phrase}, {text}" if self.rng.random() < 0.2 else f"{text}, {phrase}"
