"""Text: cleaning prompts, and the small encoder that ships with the storybook model.

The encoder turns a prompt into a few slots, one per attribute of the storybook world (scene, time,
weather, ...) plus free ones.  A slot is a softmax-weighted mixture of fixed prototype vectors, so
an unseen word lands between known concepts and the video model never sees a vector outside what it
was trained on.  Words come from a table of static vectors; a word outside the table is mapped to
the nearest known spelling.

How the encoder is trained is not known here: see streamer.distill.text_stage.
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import ftfy
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from streamer.errors import WeightsError

NOT_MENTIONED = "not mentioned"
_FORMAT = "streamer-text-1"
_WHITESPACE = re.compile(r"\s+")
_WORD = re.compile(r"[a-z]+")
_APOSTROPHES = str.maketrans("", "", "'\u2019")
_REPEATED = re.compile(r"(.)\1+")
_SOUNDS = (("ph", "f"), ("ck", "k"), ("au", "o"), ("gh", "g"), ("ea", "ee"), ("ie", "y"))
_ENDINGS = ("wards", "ward", "ings", "ing", "like", "ers", "er", "ed", "es", "ly", "s", "y")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def clean_prompt(text: str) -> str:
    """Repair and tidy a prompt the way the published Wan pipelines do; case is kept.

    ftfy's fix_text, HTML-unescape twice, strip, every run of Unicode whitespace to one space.
    """
    fixed = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _WHITESPACE.sub(" ", fixed).strip()


class TextEncoder(Protocol):
    """Prompts to the rows that the transformer's cross-attention reads."""

    @property
    def text_length(self) -> int:
        """Rows per prompt."""

    @property
    def text_width(self) -> int:
        """Numbers per row."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode prompts.  Result: float [B, text_length, text_width], on the encoder's device."""


@dataclass(frozen=True)
class Attribute:
    """One thing a prompt may mention, and the classes it may take (without "not mentioned")."""

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of the storybook text encoder.  Slot i carries attributes[i]; the rest are free."""

    attributes: tuple[Attribute, ...]
    text_length: int = 8
    text_width: int = 128
    word_width: int = 96
    num_layers: int = 2
    num_heads: int = 4
    feed_forward_width: int = 256
    num_free_codes: int = 24
    max_words: int = 64
    max_distance: int = 8
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if len(self.attributes) > self.text_length:
            raise ValueError(
                f"{len(self.attributes)} attributes do not fit into text_length {self.text_length} "
                "slots; raise text_length or drop attributes"
            )
        if self.text_width % self.num_heads:
            raise ValueError(
                f"text_width {self.text_width} is not a multiple of num_heads {self.num_heads}"
            )

    @property
    def choices_per_slot(self) -> tuple[int, ...]:
        """Prototypes of each slot: the classes and "not mentioned", or the free codes."""
        named = tuple(len(attribute.classes) + 1 for attribute in self.attributes)
        return named + (self.num_free_codes,) * (self.text_length - len(named))


def split_words(text: str) -> list[str]:
    """Lower-case ASCII words of a text; accents are dropped, everything else separates words."""
    plain = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES).lower())
    bare = "".join(char for char in plain if not unicodedata.combining(char))
    return _WORD.findall(bare)


class WordTable(nn.Module):
    """Static word vectors, int8 rows with one scale each, and the spelling of each row.

    The order of the words is their rank: of two equally good corrections the earlier word wins.
    """

    rows: Tensor
    scales: Tensor

    def __init__(self, words: Sequence[str], rows: Tensor, scales: Tensor) -> None:
        """words: V spellings.  rows: int8 [V, D].  scales: float [V]; a vector is row * scale."""
        super().__init__()
        if rows.dtype != torch.int8 or rows.shape[0] != len(words) or len(scales) != len(words):
            raise ValueError(
                f"word table: {len(words)} words, rows {rows.dtype} {tuple(rows.shape)}, scales "
                f"{tuple(scales.shape)}; expected int8 rows and one row and scale per word"
            )
        self.words = tuple(words)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("scales", scales.to(torch.float32), persistent=False)
        self._index = {word: row for row, word in enumerate(self.words)}
        self._by_trigram: dict[str, list[int]] = {}
        for row, word in enumerate(self.words):
            for trigram in _trigrams(word):
                self._by_trigram.setdefault(trigram, []).append(row)
        self._sizes = [len(_trigrams(word)) for word in self.words]
        self._found: dict[str, tuple[int, ...]] = {}

    @staticmethod
    def quantise(words: Sequence[str], vectors: Tensor) -> WordTable:
        """Store float vectors [V, D] as int8 rows, symmetric, one scale per row."""
        scales = vectors.abs().amax(dim=1).clamp_min(1e-8) / 127.0
        rows = (vectors / scales[:, None]).round().clamp(-127, 127).to(torch.int8)
        return WordTable(words, rows, scales)

    @property
    def width(self) -> int:
        """Numbers per word."""
        return self.rows.shape[1]

    def __contains__(self, word: str) -> bool:
        return word in self._index

    def row_of(self, word: str) -> int:
        """The row of a word in the table.  Raises KeyError for a word outside it."""
        return self._index[word]

    def vectors(self, rows: Tensor) -> Tensor:
        """Vectors of table rows.  rows: long [...].  Result: float32 [..., D]."""
        return self.rows[rows].to(torch.float32) * self.scales[rows, None]

    def find(self, word: str) -> tuple[int, ...]:
        """Rows that together stand for a word: itself, a correction, two parts, or () for none."""
        exact = self._index.get(word)
        if exact is not None:
            return (exact,)
        found = self._found.get(word)
        if found is None:
            if len(self._found) >= 4096:
                self._found.clear()
            found = self._found[word] = self._find_unknown(word)
        return found

    def look_up(self, words: Sequence[str]) -> Tensor:
        """Vectors of words; parts are averaged, a word like no other gets zeros.  [N, D]."""
        result = self.scales.new_zeros(len(words), self.width)
        found = [(place, self.find(word)) for place, word in enumerate(words)]
        parts = [(place, row, 1 / len(rows)) for place, rows in found for row in rows]
        if parts:  # in one go: on a GPU every word by itself would be waited for
            places, rows, shares = (result.new_tensor(part) for part in zip(*parts, strict=True))
            vectors = self.vectors(rows.long()) * shares[:, None]
            result.index_add_(0, places.long(), vectors)
        return result

    def _find_unknown(self, word: str) -> tuple[int, ...]:
        if len(word) < 3 or len(word) > 40:
            return ()
        stem = self._find_stem(word)
        if stem is not None:
            return (stem,)
        row, overlap = self._nearest_spelling(word)
        if overlap >= 0.72:
            return (row,)
        corrected = self._correct(word)
        if corrected is not None:
            return (corrected,)
        parts = self._split(word)
        if parts:
            return parts
        return (row,) if overlap >= 0.5 and self.words[row][0] == word[0] else ()

    def _find_stem(self, word: str) -> int | None:
        """The known word left when an ending is taken off: "whirling" is "whirl"."""
        for ending in _ENDINGS:
            stem = word.removesuffix(ending)
            if stem == word or len(stem) < 3:
                continue
            for known in (stem, stem + "e", stem[:-1] if stem[-1] == stem[-2] else stem):
                if known in self._index:
                    return self._index[known]
        return None

    def _correct(self, word: str) -> int | None:
        """The best-ranked known word one typing mistake away (Damerau distance 1)."""
        if len(word) < 4:
            return None
        cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
        candidates = {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
        candidates |= {a + b[1:] for a, b in cuts if b}
        candidates |= {a + c + b[1:] for a, b in cuts if b for c in _LETTERS}
        candidates |= {a + c + b for a, b in cuts for c in _LETTERS}
        known = [self._index[candidate] for candidate in candidates if candidate in self._index]
        same_start = [row for row in known if self.words[row][0] == word[0]]
        return min(same_start or known, default=None)

    def _split(self, word: str) -> tuple[int, ...]:
        """Two known words of three letters or more that make up the word, cut near its middle."""
        middle = len(word) / 2
        for cut in sorted(range(3, len(word) - 2), key=lambda cut: abs(cut - middle)):
            if word[:cut] in self._index and word[cut:] in self._index:
                return self._index[word[:cut]], self._index[word[cut:]]
        return ()

    def _nearest_spelling(self, word: str) -> tuple[int, float]:
        """The row whose letter trigrams overlap most with the word's, and the Dice coefficient."""
        trigrams = _trigrams(word)
        shared: Counter[int] = Counter()
        for trigram in trigrams:
            shared.update(self._by_trigram.get(trigram, ()))
        if not shared:
            return 0, 0.0

        def dice(row: int) -> float:
            return 2.0 * shared[row] / (len(trigrams) + self._sizes[row])

        best = max(shared, key=lambda row: (dice(row), -row))
        return best, dice(best)


def _trigrams(word: str) -> set[str]:
    """Three-letter runs of how a word roughly sounds, so that "elefant" is "elephant"."""
    for letters, sound in _SOUNDS:
        word = word.replace(letters, sound)
    padded = "^" + _REPEATED.sub(r"\1", word) + "$"
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


class _EncoderLayer(nn.Module):
    """Pre-norm self-attention with a learned bias by word distance, then a feed-forward."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        width = config.text_width
        self.num_heads = config.num_heads
        self.max_distance = config.max_distance
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.distance_bias = nn.Parameter(
            torch.zeros(2 * config.max_distance + 1, config.num_heads)
        )
        self.feed_forward = _feed_forward(config)

    def forward(self, x: Tensor, is_word: Tensor) -> Tensor:
        """x: [B, N, E].  is_word: bool [B, N], False for padding.  Result: [B, N, E]."""
        q, k, v = self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        places = torch.arange(x.shape[1], device=x.device)
        distance = (places[None, :] - places[:, None]).clamp(-self.max_distance, self.max_distance)
        bias = self.distance_bias[distance + self.max_distance].permute(2, 0, 1)[None]
        bias = bias.masked_fill(~is_word[:, None, None, :], -math.inf)
        x = x + self.out(_attend(q, k, v, self.num_heads, bias))
        result: Tensor = x + self.feed_forward(x)
        return result


def _feed_forward(config: TextEncoderConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(config.text_width),
        nn.Linear(config.text_width, config.feed_forward_width),
        nn.GELU(),
        nn.Linear(config.feed_forward_width, config.text_width),
    )


def _attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, bias: Tensor) -> Tensor:
    """Multi-head attention.  q: [B, M, E].  k, v: [B, N, E].  bias: broadcast to [B, A, M, N]."""

    def to_heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(to_heads(q), to_heads(k), to_heads(v), attn_mask=bias)
    return mixed.transpose(1, 2).flatten(2)


class StorybookTextEncoder(nn.Module):
    """The embedded text encoder: word table, two layers, one query per slot.

    Owned by whoever owns the video model (the worker, or training, where it is frozen).  It never
    changes between prompts; a prompt always gives the same slots, however prompts are batched.
    """

    prototypes: Tensor

    def __init__(self, config: TextEncoderConfig, words: WordTable) -> None:
        super().__init__()
        if words.width != config.word_width:
            raise ValueError(
                f"word table has {words.width} numbers per word, config.word_width is "
                f"{config.word_width}"
            )
        self.config = config
        self.word_table = words
        width = config.text_width
        self.project = nn.Linear(config.word_width, width)
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.layers = nn.ModuleList(_EncoderLayer(config) for _ in range(config.num_layers))
        self.norm_memory = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(config.text_length, width) * 0.5)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward = _feed_forward(config)
        self.norm_slots = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, n) for n in config.choices_per_slot)
        prototypes = _orthogonal_rows(sum(config.choices_per_slot), width)
        self.register_buffer("prototypes", prototypes, persistent=False)

    @property
    def text_length(self) -> int:
        """Slots per prompt."""
        return self.config.text_length

    @property
    def text_width(self) -> int:
        """Numbers per slot."""
        return self.config.text_width

    def forward(self, vectors: Tensor, is_word: Tensor) -> list[Tensor]:
        """Logits of every slot.

        vectors: word vectors [B, N, word_width].  is_word: bool [B, N], False for padding.
        Result: text_length tensors [B, choices of that slot]; "not mentioned" is the last choice.
        """
        batch = vectors.shape[0]
        x = torch.cat((self.start.expand(batch, 1, -1), self.project(vectors)), dim=1)
        is_word = F.pad(is_word, (1, 0), value=True)
        for layer in self.layers:
            x = layer(x, is_word)
        k, v = self.key_value(self.norm_memory(x)).chunk(2, dim=-1)
        queries = self.queries.expand(batch, -1, -1)
        bias = torch.zeros_like(is_word, dtype=x.dtype).masked_fill(~is_word, -math.inf)
        slots = self.out(_attend(queries, k, v, self.config.num_heads, bias[:, None, None, :]))
        slots = queries + slots
        slots = self.norm_slots(slots + self.feed_forward(slots))
        return [head(slots[:, i]) for i, head in enumerate(self.heads)]

    def mix(self, logits: Sequence[Tensor]) -> Tensor:
        """Slots as mixtures of prototypes, each slot scaled to RMS 1.  [B, text_length, E]."""
        rows = torch.split(self.prototypes, list(self.config.choices_per_slot))
        weights = [(choice / self.config.temperature).softmax(dim=-1) for choice in logits]
        mixed = torch.stack([w @ p for w, p in zip(weights, rows, strict=True)], dim=1)
        return mixed * mixed.square().mean(dim=-1, keepdim=True).rsqrt()

    def batch_words(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word vectors of cleaned texts [B, N, word_width], and which are words: bool [B, N].

        Words beyond config.max_words are not read.
        """
        looked_up = [
            self.word_table.look_up(split_words(clean_prompt(text))[: self.config.max_words])
            for text in texts
        ]
        longest = max((len(vectors) for vectors in looked_up), default=0)
        result = self.word_table.scales.new_zeros(len(texts), longest, self.config.word_width)
        is_word = torch.zeros(len(texts), longest, dtype=torch.bool, device=result.device)
        for i, vectors in enumerate(looked_up):
            result[i, : len(vectors)] = vectors
            is_word[i, : len(vectors)] = True
        return result, is_word

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode prompts.  Result: float32 [B, text_length, text_width], every slot of RMS 1."""
        return self.mix(self(*self.batch_words(texts)))

    @torch.no_grad()
    def describe(self, text: str) -> dict[str, tuple[str, float]]:
        """What the encoder read: attribute -> (class or NOT_MENTIONED, probability)."""
        logits = self(*self.batch_words([text]))
        result: dict[str, tuple[str, float]] = {}
        for attribute, choices in zip(self.config.attributes, logits, strict=False):
            probability, best = choices[0].softmax(dim=-1).max(dim=-1)
            name = (*attribute.classes, NOT_MENTIONED)[int(best)]
            result[attribute.name] = (name, float(probability))
        return result


def _orthogonal_rows(count: int, width: int) -> Tensor:
    """Fixed prototype rows of RMS 1: orthogonal while count <= width, then in orthogonal groups."""
    generator = torch.Generator().manual_seed(20)
    groups = []
    for _ in range(math.ceil(count / width)):
        square = torch.randn(width, width, generator=generator, dtype=torch.float64)
        groups.append(torch.linalg.qr(square).Q.T)
    return (torch.cat(groups)[:count] * math.sqrt(width)).to(torch.float32)


def save_text_encoder(encoder: StorybookTextEncoder, path: Path) -> None:
    """Write the encoder as one safetensors file: fp16 weights, int8 words, config in the header."""
    table = encoder.word_table
    tensors = {f"model.{k}": v.to(torch.float16) for k, v in encoder.state_dict().items()}
    tensors["prototypes"] = encoder.prototypes.to(torch.float16)
    tensors["word_rows"] = table.rows
    tensors["word_scales"] = table.scales.to(torch.float16)
    spellings = "\n".join(table.words).encode()
    tensors["word_text"] = torch.frombuffer(bytearray(spellings), dtype=torch.uint8)
    header = {"format": _FORMAT, "config": json.dumps(asdict(encoder.config), sort_keys=True)}
    save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, path, metadata=header)


def load_text_encoder(path: Path | str, device: str = "cpu") -> StorybookTextEncoder:
    """Read an encoder written by save_text_encoder, in evaluation mode, without gradients.

    Raises WeightsError when the file is missing, damaged or something else.
    """
    tensors, header = _read_tensors(Path(path))
    if header.get("format") != _FORMAT:
        raise WeightsError(
            f"{path}: format is {header.get('format')!r}, expected {_FORMAT!r}; "
            "was it written by `streamer distill text`?"
        )
    try:
        config = _read_config(header["config"])
        encoder = StorybookTextEncoder(config, _read_words(tensors))
        weights = {k[6:]: v.float() for k, v in tensors.items() if k.startswith("model.")}
        encoder.load_state_dict(weights, strict=True)
        encoder.prototypes.copy_(tensors["prototypes"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: damaged text encoder: {error}") from error
    return encoder.to(device).eval().requires_grad_(False)


def load_word_table(path: Path | str) -> WordTable:
    """Read only the words of a text encoder file, or of a file written by save_word_table.

    Raises WeightsError when the file is missing, damaged or holds no words.
    """
    tensors, _ = _read_tensors(Path(path))
    try:
        return _read_words(tensors)
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: holds no word table: {error}") from error


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            header: Mapping[str, str] = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, dict(header)  # noqa: SIM118
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: there is no such weights file") from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged weights file: {error}") from error


def _read_words(tensors: Mapping[str, Tensor]) -> WordTable:
    words = bytes(tensors["word_text"].tolist()).decode().split("\n")
    return WordTable(words, tensors["word_rows"], tensors["word_scales"])


def _read_config(text: str) -> TextEncoderConfig:
    fields = json.loads(text)
    attributes = tuple(
        Attribute(entry["name"], tuple(entry["classes"])) for entry in fields.pop("attributes")
    )
    return TextEncoderConfig(attributes=attributes, **fields)
