"""Captions for the storybook world: many ways of saying what a clip shows.

Any part may go unsaid, in any order, with synonyms; what is unsaid is usually ordinary (a clear
day, the subject's natural motion).  A few synonyms and a tenth of the combinations never occur in
training, so that obedience can be judged on words and pairs the model has not seen.

Draws from a `random.Random` that the caller owns.  Knows nothing of pictures.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from streamer.distill.world import (
    ATTRIBUTES,
    MOTIONS,
    SCENES,
    SUBJECTS,
    TIMES,
    SceneSpec,
)

NONE = len(SUBJECTS) - 1
HELD_OUT_SHARE = 0.1

EXAMPLES: tuple[str, ...] = (
    "a red balloon over green hills",
    "a whale jumping in the ocean",
    "night falls over the city, a car drives to the left",
    "a penguin in the snow",
    "a sailboat at sunset on the sea",
    "a rocket flies through the mountains",
    "it starts to rain in the city",
    "a parrot circling above a dark forest at night",
    "an elephant walks through the desert",
    "a spinning robot on a snowy day",
    "sunset over the ocean",
    "a butterfly floats over a meadow",
)

# Nouns come with the article already in place.
SUBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "balloon": ("a balloon", "a red balloon"),
    "dog": ("a dog", "a puppy", "a small dog"),
    "cat": ("a cat", "a black cat", "a kitty"),
    "rabbit": ("a rabbit", "a white rabbit"),
    "horse": ("a horse", "a brown horse"),
    "elephant": ("an elephant", "a grey elephant"),
    "penguin": ("a penguin", "a little penguin"),
    "parrot": ("a parrot", "a colourful parrot", "a bird"),
    "butterfly": ("a butterfly", "an orange butterfly"),
    "fish": ("a fish", "a tropical fish"),
    "whale": ("a whale", "a blue whale"),
    "dinosaur": ("a dinosaur", "a green dinosaur"),
    "car": ("a car", "a red car"),
    "bus": ("a bus", "a yellow bus"),
    "sailboat": ("a sailboat", "a boat", "a sailing boat"),
    "rocket": ("a rocket", "a spaceship"),
    "airplane": ("an airplane", "a plane"),
    "ball": ("a ball", "a soccer ball", "a football"),
    "star": ("a star", "a yellow star", "a golden star"),
    "robot": ("a robot", "a toy robot"),
}
SCENE_WORDS: dict[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "over green hills", "on the grass", "in the countryside",
               "in a green field", "over the meadow"),
    "mountains": ("in the mountains", "in front of mountains", "below tall peaks",
                  "over the mountains"),
    "desert": ("in the desert", "on the sand", "near the pyramids", "among sand dunes",
               "over the desert"),
    "ocean": ("in the ocean", "on the sea", "at sea", "over the ocean", "on the water"),
    "city": ("in the city", "in a city", "on a street", "downtown", "in front of buildings",
             "over the city"),
    "forest": ("in a forest", "in the woods", "among the trees", "near pine trees",
               "over the forest"),
}  # fmt: skip
TIME_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("by day", "during the day", "in daylight", "at noon", "on a bright day"),
    "sunset": ("at sunset", "at dusk", "in the evening", "as the sun goes down"),
    "night": ("at night", "under the moon", "in the dark", "under the stars", "by night"),
}
WEATHER_WORDS: dict[str, tuple[str, ...]] = {
    "clear": ("in clear weather", "under a clear sky", "with no clouds", "in good weather"),
    "rain": ("in the rain", "while it rains", "on a rainy day", "in rainy weather", "raining"),
    "snow": ("in the snow", "while it snows", "in winter", "in snowy weather", "snowing"),
}
MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "rests": ("resting", "standing still", "rests", "stands", "not moving"),
    "moves left": ("moving left", "moves to the left", "going left", "goes to the left"),
    "moves right": ("moving right", "moves to the right", "going right", "goes to the right"),
    "bounces": ("bouncing", "bounces", "jumping", "jumps up and down"),
    "floats": ("floating", "floats", "hovering", "floats in the air"),
    "circles": ("circling", "flying in circles", "moves in circles", "going round and round"),
    "spins": ("spinning", "spins", "rotating", "turning around"),
}
# How a thing that goes somewhere is said to go there, when it has a word of its own.
_GAITS: dict[str, tuple[str, ...]] = {
    "walks": ("dog", "cat", "rabbit", "horse", "elephant", "penguin", "dinosaur", "robot"),
    "runs": ("dog", "cat", "rabbit", "horse", "elephant", "dinosaur"),
    "drives": ("car", "bus"),
    "flies": ("balloon", "parrot", "butterfly", "rocket", "airplane", "star"),
    "swims": ("fish", "whale"),
    "sails": ("sailboat",),
    "rolls": ("ball",),
}
_NO_SUBJECT = ("an empty landscape", "a quiet view", "nobody", "nothing but scenery")
_SHORT_SCENES: dict[str, tuple[str, ...]] = {
    "meadow": ("a meadow", "green hills"),
    "mountains": ("mountains", "the mountains"),
    "desert": ("a desert", "the desert"),
    "ocean": ("the ocean", "the sea"),
    "city": ("a city", "the city"),
    "forest": ("a forest", "the forest"),
}
_SHORT_TIMES: dict[str, tuple[str, ...]] = {
    "day": ("day", "daylight", "a bright day"),
    "sunset": ("sunset", "evening"),
    "night": ("night", "night falls", "it is night"),
}
_SHORT_WEATHERS: dict[str, tuple[str, ...]] = {
    "clear": ("clear sky", "the sky is clear"),
    "rain": ("rain", "it rains", "it is raining", "it starts to rain"),
    "snow": ("snow", "it snows", "it is snowing", "snow begins to fall"),
}
# Never used in training: how well do words generalise?
HELD_OUT_SYNONYMS: dict[str, dict[str, tuple[str, ...]]] = {
    "subject": {
        "balloon": ("a crimson balloon",), "dog": ("a doggy", "a hound"), "cat": ("a kitten",),
        "rabbit": ("a bunny", "a hare"), "horse": ("a pony", "a stallion"),
        "parrot": ("a macaw",), "butterfly": ("a moth",), "fish": ("a goldfish",),
        "whale": ("an orca",), "dinosaur": ("a brontosaurus",), "car": ("an automobile",),
        "bus": ("a coach",), "sailboat": ("a yacht",), "rocket": ("a spacecraft",),
        "airplane": ("an aircraft", "a jet"), "robot": ("an android",),
    },
    "scene": {
        "meadow": ("on a lawn", "in a pasture"), "mountains": ("in the alps", "by the summit"),
        "desert": ("in the sahara", "in sandy wasteland"), "ocean": ("on the waves",),
        "city": ("in a town", "among skyscrapers"), "forest": ("in the woodland",),
    },
    "time": {
        "day": ("at midday",), "sunset": ("at twilight", "at nightfall"), "night": ("at midnight",),
    },
    "weather": {
        "clear": ("in fair weather",), "rain": ("in a downpour", "in a drizzle"),
        "snow": ("in a blizzard", "in a snowstorm"),
    },
    "motion": {
        "rests": ("motionless",), "moves left": ("heading left", "travels leftwards"),
        "moves right": ("heading right", "travels rightwards"), "bounces": ("hopping",),
        "floats": ("levitating",), "circles": ("orbiting",), "spins": ("twirling", "whirling"),
    },
}  # fmt: skip
_NATURAL: dict[str, tuple[str, ...]] = {
    "floats": ("balloon", "butterfly", "star"),
    "moves left": ("car", "bus", "airplane", "sailboat", "horse", "fish"),
    "moves right": ("car", "bus", "airplane", "sailboat", "rocket", "horse", "fish"),
    "bounces": ("ball", "whale", "rabbit"),
    "circles": ("parrot",),
    "rests": ("dog", "cat", "elephant", "penguin", "dinosaur", "robot"),
}
_HABITAT: dict[str, tuple[str, ...]] = {
    "ocean": ("fish", "whale", "sailboat"),
    "city": ("car", "bus"),
}


@dataclass(frozen=True)
class Caption:
    """A caption and the attributes it speaks of (keys of ATTRIBUTES)."""

    text: str
    mentions: frozenset[str]


def held_out_combination(spec: SceneSpec) -> bool:
    """Whether training never sees this (scene, subject) pair at this time of day.

    About a tenth of all combinations, the same on every machine.  Clips without a subject are
    never held out.
    """
    if spec.subject == NONE:
        return False
    name = f"{SCENES[spec.scene]}/{SUBJECTS[spec.subject]}/{TIMES[spec.time]}"
    return zlib.crc32(name.encode()) % 1000 < 1000 * HELD_OUT_SHARE


def natural_motions(subject: int) -> tuple[int, ...]:
    """The motions one expects of a subject when nothing is said about it."""
    name = SUBJECTS[subject]
    return tuple(MOTIONS.index(m) for m, who in _NATURAL.items() if name in who) or (0,)


def natural_scenes(subject: int) -> tuple[int, ...]:
    """The scenes one expects a subject in when nothing is said about it."""
    name = SUBJECTS[subject]
    return tuple(SCENES.index(s) for s, who in _HABITAT.items() if name in who) or (0,)


def caption(spec: SceneSpec, rng: random.Random, *, held_out: bool = False) -> Caption:
    """Describe a spec, leaving out what chance leaves out; something is always said.

    held_out: use synonyms that training never sees, wherever a class has one.
    """
    mentions = _choose_mentions(spec, rng)
    return Caption(_compose(spec, mentions, rng, held_out), mentions)


def sample_pair(rng: random.Random, held_out: bool = False) -> tuple[SceneSpec, Caption]:
    """Draw a spec together with its caption.

    What the caption leaves unsaid is ordinary half of the time: a clear day, the subject's natural
    motion and habitat.  held_out: combinations and synonyms that training never sees; otherwise
    only those that it may see.
    """
    while True:
        spec = SceneSpec(*(rng.randrange(len(names)) for names in ATTRIBUTES.values()))
        if rng.random() < 0.06:
            spec = replace(spec, subject=NONE)
        if spec.subject == NONE:
            spec = replace(spec, motion=0)
        mentions = _choose_mentions(spec, rng)
        spec = _settle(spec, mentions, rng)
        if held_out_combination(spec) == held_out:
            return spec, Caption(_compose(spec, mentions, rng, held_out), mentions)


def _settle(spec: SceneSpec, mentions: frozenset[str], rng: random.Random) -> SceneSpec:
    """Make each unsaid attribute ordinary, with an even chance."""

    def unsaid(attribute: str) -> bool:
        return attribute not in mentions and rng.random() < 0.5

    if unsaid("subject"):
        spec = replace(spec, subject=NONE, motion=0)
    if unsaid("scene"):
        spec = replace(spec, scene=rng.choice(natural_scenes(spec.subject)))
    if unsaid("time"):
        spec = replace(spec, time=0)
    if unsaid("weather"):
        spec = replace(spec, weather=0)
    if unsaid("motion"):
        spec = replace(spec, motion=rng.choice(natural_motions(spec.subject)))
    return spec


def _choose_mentions(spec: SceneSpec, rng: random.Random) -> frozenset[str]:
    """Which attributes a caption speaks of: one in six captions speaks of a single one."""
    has_subject = spec.subject != NONE
    if rng.random() < 1 / 6:
        single = ["scene", "time", "weather", *(["subject"] * 3 if has_subject else [])]
        return frozenset([rng.choice(single)])
    chances = {"scene": 0.85, "time": 0.6, "weather": 0.6, "subject": 0.9, "motion": 0.7}
    said = {name for name, chance in chances.items() if rng.random() < chance}
    if not has_subject and rng.random() < 0.6:
        said.discard("subject")
    if not has_subject or "subject" not in said:
        said.discard("motion")
    return frozenset(said or {"scene"})


def _words(
    table: Mapping[str, Sequence[str]], attribute: str, spec: SceneSpec, rng: random.Random,
    held_out: bool,
) -> str:  # fmt: skip
    """One wording for one attribute of a spec."""
    number = {"scene": spec.scene, "time": spec.time, "weather": spec.weather,
              "subject": spec.subject, "motion": spec.motion}[attribute]  # fmt: skip
    name = ATTRIBUTES[attribute][number]
    rare = HELD_OUT_SYNONYMS[attribute].get(name, ()) if held_out else ()
    return rng.choice(rare or table[name])


def _moving(spec: SceneSpec, rng: random.Random, held_out: bool) -> str:
    """A wording for the motion, with the subject's own verb now and then."""
    name = MOTIONS[spec.motion]
    if name in ("moves left", "moves right") and not held_out and rng.random() < 0.5:
        gaits = [verb for verb, who in _GAITS.items() if SUBJECTS[spec.subject] in who]
        return f"{rng.choice(gaits)} {rng.choice(('', 'to the '))}{name.split()[1]}"
    return _words(MOTION_WORDS, "motion", spec, rng, held_out)


def _compose(spec: SceneSpec, mentions: frozenset[str], rng: random.Random, held_out: bool) -> str:
    """Put the chosen attributes into words."""
    if "subject" not in mentions:
        return _compose_view(spec, mentions, rng, held_out)
    head = rng.choice(_NO_SUBJECT)
    if spec.subject != NONE:
        head = _words(SUBJECT_WORDS, "subject", spec, rng, held_out)
    if "motion" in mentions:
        verb = _moving(spec, rng, held_out)
        head = f"{head} {verb}"
        if verb.endswith("ing") and " " not in verb and rng.random() < 0.3:
            article, noun = head.removesuffix(f" {verb}").split(" ", 1)
            head = f"{'a' if verb[0] not in 'aeiou' else 'an'} {verb} {noun}" if article else head
    parts = []
    if "scene" in mentions:
        parts.append(_words(SCENE_WORDS, "scene", spec, rng, held_out))
    for attribute, table in (("time", TIME_WORDS), ("weather", WEATHER_WORDS)):
        if attribute in mentions:
            parts.append(_words(table, attribute, spec, rng, held_out))
    if rng.random() < 0.5:
        rng.shuffle(parts)
    if parts and rng.random() < 0.15:
        front = parts.pop(rng.randrange(len(parts)))
        return f"{front}, {head} {' '.join(parts)}".strip()
    return head + "".join(f"{rng.choice((' ', ' ', ', '))}{part}" for part in parts)


def _compose_view(
    spec: SceneSpec, mentions: frozenset[str], rng: random.Random, held_out: bool
) -> str:
    """Words for a caption that names no subject: "sunset over the ocean", "night falls, snow"."""
    shorts = {"scene": _SHORT_SCENES, "time": _SHORT_TIMES, "weather": _SHORT_WEATHERS}
    longs = {"scene": SCENE_WORDS, "time": TIME_WORDS, "weather": WEATHER_WORDS}
    order = [name for name in ("weather", "time", "scene") if name in mentions]
    rng.shuffle(order)
    if held_out:
        texts = [_words(longs[name], name, spec, rng, True) for name in order]
        return ", ".join(texts)
    first, rest = order[0], order[1:]
    text = _words(shorts[first], first, spec, rng, False)
    for name in rest:
        if rng.random() < 0.7:
            text += f" {_words(longs[name], name, spec, rng, False)}"
        else:
            text += f", {_words(shorts[name], name, spec, rng, False)}"
    return text
