"""WordNet: what nouns mean that can be seen.

Miller, "WordNet: A Lexical Database for English", 1995.  Read from its database files as wndb(5)
describes them, of version 3.0 (Debian: `wordnet-base`, in /usr/share/wordnet).  Only nouns for
animals, artefacts, food, things of nature and plants are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamer.errors import ConfigError

_SEEN_FILES = frozenset(("05", "06", "13", "17", "20"))
"""Lexicographer files, lexnames(5): nouns for animals, artefacts, food, natural objects, plants."""
_NOUN = "1"
# What plurals end in, by the rules of morphy(7).
_ENDINGS = (
    ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"),
    ("ies", "y"), ("s", ""),
)  # fmt: skip


@dataclass(frozen=True)
class Sense:
    """One meaning of a noun.

    names: all words for it.  kinds: what it is a kind of, nearest first.  gloss: its definition.
    count: how often it is meant in the texts that WordNet counted.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    gloss: str
    count: int


@dataclass(frozen=True)
class _Synset:
    file: str
    names: tuple[str, ...]
    kind: str | None
    gloss: str


class Dictionary:
    """Nouns and their senses.  Read-only; about 85 MB while it lives."""

    def __init__(self, folder: Path) -> None:
        """folder: with data.noun, index.noun, noun.exc and cntlist.rev.

        Raises ConfigError where they are missing or something else.
        """
        try:
            self._synsets = dict(map(_read_synset, _records(folder / "data.noun")))
            self._index = dict(map(_read_entry, _records(folder / "index.noun")))
            self._irregular = {
                line.split()[0]: line.split()[1] for line in _records(folder / "noun.exc")
            }
            self._counts: dict[tuple[str, int], int] = {}
            self._uses: Counter[str] = Counter()
            for line in _records(folder / "cntlist.rev"):
                self._count(line)
            self._check()
        except (OSError, ValueError, IndexError) as error:
            raise ConfigError(
                f"{folder}: no WordNet 3.0 database ({error}); "
                "Debian has one: apt install wordnet-base, then name /usr/share/wordnet"
            ) from error

    def __iter__(self) -> Iterator[str]:
        """Every word of one part that names something that can be seen; no proper names."""
        for word in self._index:
            if word.isalpha() and any(word in sense.names for sense in self.senses(word)):
                yield word

    def senses(self, word: str, most: int = 3) -> tuple[Sense, ...]:
        """The commonest senses of a word that can be seen; () for other words.

        A word that mostly means something else has none: "left", "rests", a soldier who is an ant.
        WordNet met rare words nowhere, so senses that can be seen count once more than they were.
        word: lower case, singular or plural.
        """
        lemma = self._lemma(word)
        seen: list[Sense] = []
        others = self._uses[lemma]
        for number, offset in enumerate(self._index.get(lemma, ()), start=1):
            synset = self._synsets[offset]
            count = self._counts.get((lemma, number), 0)
            if synset.file in _SEEN_FILES:
                seen.append(Sense(synset.names, self._kinds(offset), synset.gloss, count))
                others -= count
        weight = sum(sense.count + 1 for sense in seen)
        return tuple(seen[:most]) if weight > 0 and weight >= others else ()

    def _kinds(self, offset: str, most: int = 3) -> tuple[str, ...]:
        kinds: list[str] = []
        above = self._synsets[offset].kind
        while above is not None and len(kinds) < most:
            kinds.append(self._synsets[above].names[0])
            above = self._synsets[above].kind
        return tuple(kinds)

    def _lemma(self, word: str) -> str:
        """Its singular, if it is none itself."""
        if word in self._index:
            return word
        if word in self._irregular:
            return self._irregular[word]
        for ending, singular in _ENDINGS:
            lemma = word.removesuffix(ending) + singular
            if word.endswith(ending) and lemma in self._index:
                return lemma
        return word

    def _check(self) -> None:
        """Raise ValueError unless the files belong together."""
        named = {offset for offsets in self._index.values() for offset in offsets}
        named |= {synset.kind for synset in self._synsets.values() if synset.kind is not None}
        if not named or not named <= self._synsets.keys():
            raise ValueError("data.noun has not all that index.noun names")

    def _count(self, line: str) -> None:
        """A line of cntlist.rev: lemma%part_of_speech:..., the number of the sense, its uses."""
        key, number, uses = line.split()
        lemma, rest = key.split("%")
        self._uses[lemma] += int(uses)
        if rest[0] == _NOUN:
            self._counts[lemma, int(number)] = int(uses)


def _records(path: Path) -> Iterator[str]:
    """The lines of a database file without its licence, which is indented."""
    with path.open(encoding="utf-8") as lines:
        yield from (line for line in lines if not line.startswith("  "))


def _read_synset(line: str) -> tuple[str, _Synset]:
    """offset file type words(hex) [word id]... pointers [symbol offset type ends]... | gloss."""
    record, _, gloss = line.partition(" | ")
    fields = record.split()
    names_end = 4 + 2 * int(fields[3], 16)
    pointers = fields[names_end + 1 :]
    kinds = (
        pointers[i + 1] for i in range(0, 4 * int(fields[names_end]), 4) if pointers[i][0] == "@"
    )
    names = tuple(name.replace("_", " ") for name in fields[4:names_end:2])
    definition = gloss.strip().split('; "')[0]
    return fields[0], _Synset(fields[1], names, next(kinds, None), definition)


def _read_entry(line: str) -> tuple[str, tuple[str, ...]]:
    """lemma type senses ... offsets, the commonest first."""
    fields = line.split()
    return fields[0], tuple(fields[-int(fields[2]) :])
