"""English in small: articles and plurals of the nouns that captions use.

Knows nothing of the world.
"""

from __future__ import annotations

from typing import Final

_IRREGULAR: Final = {
    "mouse": "mice",
    "goose": "geese",
    "ox": "oxen",
    "wolf": "wolves",
    "leaf": "leaves",
    "loaf": "loaves",
    "scarf": "scarves",
    "knife": "knives",
    "fish": "fish",
    "sheep": "sheep",
    "deer": "deer",
    "moose": "moose",
    "bison": "bison",
    "shrimp": "shrimp",
    "squid": "squid",
    "dice": "dice",
    "die": "dice",
    "aircraft": "aircraft",
    "spacecraft": "spacecraft",
    "cherries": "cherries",
    "teddy": "teddies",
    "passer-by": "passers-by",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "mango": "mangoes",
    "volcano": "volcanoes",
    "tornado": "tornadoes",
    "cactus": "cacti",
    "octopus": "octopuses",
}
_ARTICLES: Final = ("a", "an", "the", "some")


def with_article(noun: str, is_plural: bool = False) -> str:
    """ "dog" as "a dog", "owl" as "an owl"; a plural as it is."""
    if is_plural:
        return noun
    if noun.startswith(("uni", "ufo", "eu", "one")):
        return f"a {noun}"
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def without_article(phrase: str) -> str:
    """ "a dog" as "dog"."""
    first, _, rest = phrase.partition(" ")
    return rest if first in _ARTICLES and rest else phrase


def pluralise(noun: str) -> str:
    """ "jar of honey" as "jars of honey", "puppy" as "puppies"; a plural as it is."""
    for joint in (" of ", " with ", " in "):
        first, found, rest = noun.partition(joint)
        if found:
            return f"{pluralise(first)}{found}{rest}"
    before, space, last = noun.rpartition(" ")
    return f"{before}{space}{_pluralise_word(last)}"


def _pluralise_word(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _IRREGULAR.values() or (
        word.endswith("s") and not word.endswith(("ss", "us", "is"))
    ):
        return word
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    return f"{word}s"


def count_noun(count: str, phrase: str) -> str:
    """ "two" and "a dog" as "two dogs"."""
    return f"{count} {pluralise(without_article(phrase))}"


def change_article(adjective: str, phrase: str) -> str:
    """Put a word before a noun: "spinning" and "an owl" as "a spinning owl"."""
    first, _, noun = phrase.partition(" ")
    if first not in ("a", "an") or not noun:
        return f"{adjective} {phrase}"
    return f"{'a' if adjective[0] not in 'aeiou' else 'an'} {adjective} {noun}"
