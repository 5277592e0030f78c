"""Training the storybook text encoder on captions, and the report on how well it reads.

Without a word table made before, one is built first; see streamer.distill.words for what that
needs.

Captions name concepts with few words; people use many.  In training, a word is often replaced by
a table word to which it is the nearest word of all captions ("puppy" for "dog"), so that the
encoder learns regions of the vector space rather than points.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamer.distill.captions import (
    Caption,
    caption,
    held_out_combination,
    sample_pair,
)
from streamer.distill.dictionary import Dictionary
from streamer.distill.draws import send
from streamer.distill.edition import Edition, SceneSpec, agree
from streamer.distill.optimizer import build_optimizer
from streamer.distill.words import (
    build_word_table,
    grow_word_table,
    has_teacher,
    save_word_table,
)
from streamer.errors import ConfigError, OutputError
from streamer.models.text import (
    NOT_MENTIONED,
    Attribute,
    StorybookTextEncoder,
    TextEncoderConfig,
    WordTable,
    clean_prompt,
    load_text_encoder,
    load_word_table,
    save_text_encoder,
    split_words,
)

# The order in which the attributes of loose phrases are told.
_FRAGMENT_ORDER = (
    "subject", "motion", "scene", "time", "weather", "heading", "number", "companion", "camera",
)  # fmt: skip
# Words that say nothing about the world; they are mixed into captions and must change nothing.
SMALL_TALK = (
    "a beautiful picture of",
    "please show me",
    "i want to see",
    "highly detailed",
    "storybook style",
    "lovely",
    "cinematic",
    "a film about",
    "in the style of a painting",
    "very nice",
    "can you make",
    "once upon a time",
    "best quality",
    "masterpiece",
    "and then",
    "now",
    "suddenly",
    "cute",
    "for me",
    "an image with",
    "there is",
    "illustration",
    "let us have",
    "the same but with",
    "something",
)


@dataclass(frozen=True)
class Example:
    """A caption and what it mentions: attribute -> class; attributes it leaves open are absent."""

    text: str
    mentions: dict[str, str]


@dataclass(frozen=True)
class TextTraining:
    """How long and how hard to train.

    muon_lr: of the matrices; 0 gives everything to AdamW, which many classes take long with.
    report_captions: behind every accuracy of the report.
    """

    num_captions: int = 40_000
    steps: int = 1_600
    batch: int = 96
    learning_rate: float = 2e-3
    muon_lr: float = 0.0
    report_captions: int = 2000
    replace_chance: float = 0.25
    noise: float = 0.35
    seed: int = 0


# ---------------------------------------------------------------- captions as tensors


@dataclass(frozen=True)
class CaptionBatch:
    """vectors [B, N, D]; plain [B, N, D]; is_word bool [B, N]; labels long [B, attributes];
    gist [B, D].

    plain: the same captions and small talk without replaced words and noise, as the table before
        knew them.
    The gist is the mean vector of the caption's own words, without small talk and noise.
    """

    vectors: Tensor
    plain: Tensor
    is_word: Tensor
    labels: Tensor
    gist: Tensor

    def on(self, device: torch.device | str) -> CaptionBatch:
        """The same on a device."""
        return CaptionBatch(*(send(part, device) for part in vars(self).values()))


class CaptionBatches:
    """Captions ready to be drawn in augmented batches.

    Owned by one training run.  All words live in one matrix, after a row of padding: those of the
    captions, small talk, and the table, of which some replace or surround them.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        attributes: Sequence[Attribute],
        table: WordTable,
        hidden_words: Iterable[str] = (),
        table_before: WordTable | None = None,
    ) -> None:
        """hidden_words: never used as replacements, so that they stay unseen for the report.
        table_before: that of an encoder to imitate; None: the same table.
        """
        tokens = [split_words(clean_prompt(example.text)) for example in examples]
        words = sorted({word for sentence in tokens for word in sentence})
        talk = [split_words(phrase) for phrase in SMALL_TALK]
        talk_words = sorted({word for phrase in talk for word in phrase})
        hidden = set(hidden_words) | set(words) | set(talk_words)
        self.labels = label_examples(examples, attributes)
        self._nothing = torch.tensor([len(attribute.classes) for attribute in attributes])
        rows = [*words, *talk_words, *table.words]
        self.vectors = F.pad(table.look_up(rows), (0, 0, 1, 0))
        own = self.vectors[1 : 1 + len(words)]
        self.replacements, self._unrelated = _find_replacements(own, table, hidden)
        self._plain = self.vectors
        if table_before is not None and table_before is not table:
            known = [word if word in table_before else "" for word in table.words]
            rows = [*words, *talk_words, *known]
            self._plain = F.pad(table_before.look_up(rows), (0, 0, 1, 0))
        self._table_offset = 1 + len(words) + len(talk_words)
        index = {word: 1 + i for i, word in enumerate(words)}
        talk_index = {word: 1 + len(words) + i for i, word in enumerate(talk_words)}
        self._sentences = [[index[word] for word in sentence] for sentence in tokens]
        self._talk = [[talk_index[word] for word in phrase] for phrase in talk]

    def draw(self, training: TextTraining, max_words: int, chance: random.Random) -> CaptionBatch:
        """A batch, one in sixteen of its captions being small talk only."""
        rows: list[list[tuple[int, int]]] = []
        labels = self._nothing.expand(training.batch, -1).clone()
        gist = torch.zeros(training.batch, self.vectors.shape[1])
        for i in range(training.batch):
            sentence: list[tuple[int, int]] = []
            if chance.random() >= 1 / 16:
                choice = chance.randrange(len(self._sentences))
                words = self._sentences[choice]
                said = self._replace(words, training.replace_chance, chance)
                sentence = list(zip(said, words, strict=True))
                labels[i] = self.labels[choice]
                gist[i] = self.vectors[said].mean(dim=0)
            rows.append(self._talk_around(sentence, chance)[:max_words])
        longest = max(1, max(len(row) for row in rows))
        padded = torch.tensor([row + [(0, 0)] * (longest - len(row)) for row in rows])
        vectors = self.vectors[padded[..., 0]]
        strength = training.noise * torch.rand(training.batch, 1, 1)
        vectors = vectors + strength * torch.randn_like(vectors)
        return CaptionBatch(vectors, self._plain[padded[..., 1]], padded[..., 0] > 0, labels, gist)

    def _replace(self, sentence: list[int], rate: float, chance: random.Random) -> list[int]:
        rate *= 2 * chance.random()
        result = []
        for word in sentence:
            options = self.replacements[word - 1]
            if options and chance.random() < rate:
                result.append(self._table_offset + chance.choice(options))
            else:
                result.append(word)
        return result

    def _talk_around(
        self, sentence: list[tuple[int, int]], chance: random.Random
    ) -> list[tuple[int, int]]:
        """A sentence, as rows said and rows meant, with small talk about it."""
        if sentence and chance.random() < 0.6:
            return sentence
        for _ in range(chance.choice((1, 1, 2, 4))):
            phrase = chance.choice(self._talk)
            if chance.random() < 0.3 and self._unrelated:
                phrase = [self._table_offset + chance.choice(self._unrelated) for _ in phrase[:2]]
            talk = [(row, row) for row in phrase]
            sentence = talk + sentence if chance.random() < 0.6 else sentence + talk
        return sentence


def label_examples(examples: Sequence[Example], attributes: Sequence[Attribute]) -> Tensor:
    """Class numbers, long [examples, attributes]; "not mentioned" is the number after the last."""
    places = [
        {name: i for i, name in enumerate((*attribute.classes, NOT_MENTIONED))}
        for attribute in attributes
    ]
    return torch.tensor(
        [
            [
                place[example.mentions.get(attribute.name, NOT_MENTIONED)]
                for attribute, place in zip(attributes, places, strict=True)
            ]
            for example in examples
        ],
        dtype=torch.long,
    )


def _find_replacements(
    vectors: Tensor,
    table: WordTable,
    hidden: set[str],
    most: int = 24,
    least: float = 0.28,
    unlike: float = 0.18,
) -> tuple[list[list[int]], list[int]]:
    """For every caption word, table rows that may replace it; and rows unlike every caption word.

    A row may replace the caption word nearest to it, if their cosine is `least` or more; each word
    keeps the `most` alike.  vectors: caption words [V, D].  hidden: words in neither result.
    """
    own = F.normalize(vectors, dim=1)
    others = F.normalize(table.vectors(torch.arange(len(table.words))), dim=1)
    likeness, nearest = (others @ own.T).max(dim=1)
    replacements: list[list[int]] = [[] for _ in range(len(vectors))]
    unrelated = []
    for row in likeness.argsort(descending=True).tolist():
        if table.words[row] in hidden:
            continue
        options = replacements[int(nearest[row])]
        if float(likeness[row]) >= least and len(options) < most:
            options.append(row)
        elif float(likeness[row]) < unlike:
            unrelated.append(row)
    return replacements, unrelated


# ---------------------------------------------------------------- training


def train_text_encoder(
    batches: CaptionBatches,
    config: TextEncoderConfig,
    table: WordTable,
    training: TextTraining,
    progress: Callable[[int, float], None] = lambda step, loss: None,
    device: torch.device | str = "cpu",
    start: StorybookTextEncoder | None = None,
) -> StorybookTextEncoder:
    """Train an encoder on captions.  Result: on the CPU, in evaluation mode, without gradients.

    The loss is the cross-entropy of every attribute, lightly smoothed so that doubt stays visible,
    plus 1 - cosine between the caption's gist and what the free slots tell of it.
    start: an encoder of the same sizes to go on from.  Its free slots for the captions as they were
    before words were replaced are imitated instead, so that a transformer that was trained with it
    reads the new one as well, unseen words included; named slots mean the same in all encoders.
    """
    torch.manual_seed(training.seed)
    chance = random.Random(training.seed)
    encoder = StorybookTextEncoder(config, table).train().to(device)
    if start is not None:
        encoder.load_state_dict(start.state_dict())
        start = start.to(device)
    num_named = len(config.attributes)
    num_free = config.text_length - num_named
    read_gist = nn.Linear(max(1, num_free) * config.text_width, config.word_width).to(device)
    parameters = [*encoder.parameters(), *read_gist.parameters()]
    optimizer = _build_optimizer([encoder, read_gist], training)
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * _learning_rate_at(step, training.steps)
        batch = batches.draw(training, config.max_words, chance).on(device)
        logits = encoder(batch.vectors, batch.is_word)
        loss = torch.stack(
            [
                F.cross_entropy(choices, batch.labels[:, i], label_smoothing=0.03)
                for i, choices in enumerate(logits[:num_named])
            ]
        ).sum()
        if num_free and start is not None:
            with torch.no_grad():
                wanted = start.mix(start(batch.plain, batch.is_word))[:, num_named:]
            loss = loss + (encoder.mix(logits)[:, num_named:] - wanted).square().mean()
        elif num_free:
            told = read_gist(encoder.mix(logits)[:, num_named:].flatten(1))
            loss = loss + 1.0 - F.cosine_similarity(told, batch.gist, dim=1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 16 == 15 or step + 1 == training.steps:  # the host runs ahead of a GPU
            progress(step + 1, float(loss.detach()))
    return encoder.cpu().eval().requires_grad_(False)


def _build_optimizer(modules: Sequence[nn.Module], training: TextTraining) -> torch.optim.Optimizer:
    if training.muon_lr > 0:
        return build_optimizer(modules, muon_lr=training.muon_lr, adam_lr=training.learning_rate)
    rate = training.learning_rate
    parameters = [parameter for module in modules for parameter in module.parameters()]
    group = {"params": parameters, "base_lr": rate}
    return torch.optim.AdamW([group], rate, weight_decay=0.02)


def _learning_rate_at(step: int, steps: int) -> float:
    """Warm-up over the first twentieth, then a cosine down to a fiftieth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.no_grad()
def measure_accuracy(
    encoder: StorybookTextEncoder, examples: Sequence[Example]
) -> dict[str, dict[str, float]]:
    """Per attribute: "all" captions read right, and "mentioned": only where one is mentioned."""
    labels = label_examples(examples, encoder.config.attributes)
    guesses = torch.empty_like(labels)
    for start in range(0, len(examples), 256):
        texts = [example.text for example in examples[start : start + 256]]
        logits = encoder(*encoder.batch_words(texts))
        for i in range(labels.shape[1]):
            guesses[start : start + len(texts), i] = logits[i].argmax(dim=1)
    result: dict[str, dict[str, float]] = {}
    for i, attribute in enumerate(encoder.config.attributes):
        right = guesses[:, i] == labels[:, i]
        mentioned = labels[:, i] < len(attribute.classes)
        result[attribute.name] = {
            "all": float(right.float().mean()),
            "mentioned": float(right[mentioned].float().mean()) if mentioned.any() else 1.0,
        }
    return result


def measure_encode_ms(encoder: StorybookTextEncoder, repeats: int = 50) -> float:
    """Median milliseconds to encode one prompt on this machine."""
    times = []
    for i in range(repeats):
        text = f"a small red baloon number {i} drifts over the green hills at night while it snows"
        start = time.perf_counter()
        encoder.encode([text])
        times.append(time.perf_counter() - start)
    return 1000.0 * sorted(times)[repeats // 2]


# ---------------------------------------------------------------- the storybook world


def draw_storybook_examples(
    edition: Edition, count: int, seed: int, held_out: bool = False
) -> list[Example]:
    """Captions of the storybook world.  held_out: with the synonyms kept back from training."""
    chance = random.Random(seed)
    drawn = (sample_pair(edition, chance, held_out=held_out) for _ in range(count))
    return [_example(edition, spec, caption) for spec, caption in drawn]


def draw_held_out_combinations(edition: Edition, count: int, seed: int) -> list[Example]:
    """Known words for scene, subject and time of day that training never combines."""
    chance = random.Random(seed)
    examples: list[Example] = []
    while len(examples) < count:
        numbers = (chance.randrange(len(names)) for names in edition.attributes.values())
        spec = agree(edition, SceneSpec(*numbers))
        if held_out_combination(edition, spec):
            examples.append(_example(edition, spec, caption(edition, spec, chance)))
    return examples


def draw_fragments(edition: Edition, count: int, seed: int) -> list[Example]:
    """Loose phrases as a viewer types them, with the thesaurus: "it spins", "a ufo, at night"."""
    chance = random.Random(seed)
    tables = {name: edition.words[name] for name in _FRAGMENT_ORDER if name in edition.words}
    known = {name: _sayable(edition, name) for name in tables}
    examples = []
    for _ in range(count):
        names = chance.sample(list(tables), chance.choice((1, 1, 2, 2, 3, 4)))
        if chance.random() < 0.5:
            names.sort(key=list(tables).index)
        mentions = {name: chance.choice(known[name]) for name in names}
        phrases = []
        for name, said in mentions.items():
            usual = tables[name].get(said, ())
            more = edition.thesaurus.get(name, {}).get(said, ())
            phrases.append(chance.choice(more if more and chance.random() < 0.6 else usual or more))
        if "subject" in mentions and "number" in edition.attributes:
            mentions["number"] = edition.attributes["number"][0]
        opening = chance.choice(("", "", "", "it is ", "now it ", "and "))
        examples.append(Example(opening + chance.choice((", ", " ")).join(phrases), mentions))
    return examples


def _sayable(edition: Edition, attribute: str) -> tuple[str, ...]:
    """The classes that there are words for; a companion that is absent has none."""
    usual, more = edition.words[attribute], edition.thesaurus.get(attribute, {})
    return tuple(
        name for name in edition.attributes[attribute] if usual.get(name) or more.get(name)
    )


def _example(edition: Edition, spec: SceneSpec, said: Caption) -> Example:
    mentions = {
        name: classes[spec.of(name)]
        for name, classes in edition.attributes.items()
        if name in said.mentions
    }
    return Example(said.text, mentions)


def edition_words(edition: Edition) -> set[str]:
    """Every word of every wording, also of those that training never uses."""
    tables = (edition.words, edition.openings, edition.held_out, edition.thesaurus)
    said = (
        phrases for table in tables for by_class in table.values() for phrases in by_class.values()
    )
    return {word for phrases in said for phrase in phrases for word in split_words(phrase)}


def _held_out_words(edition: Edition) -> set[str]:
    """Words of the wordings that training never uses."""
    phrases = (
        p for classes in edition.held_out.values() for said in classes.values() for p in said
    )
    return {word for phrase in phrases for word in split_words(phrase)}


def measure_synonyms(edition: Edition, encoder: StorybookTextEncoder) -> dict[str, object]:
    """Each held-out wording on its own: the share read right per attribute, and every miss."""
    result: dict[str, object] = {}
    for name, classes in edition.held_out.items():
        wordings = [(phrase, wanted) for wanted, said in classes.items() for phrase in said]
        if not wordings:
            continue
        read = [encoder.describe(phrase)[name][0] for phrase, _ in wordings]
        misses = [
            f"{phrase}: {got}, not {wanted}"
            for (phrase, wanted), got in zip(wordings, read, strict=True)
            if got != wanted
        ]
        result[name] = {"right": 1.0 - len(misses) / len(wordings), "misses": misses}
    return result


def report_on(edition: Edition, path: Path, count: int) -> dict[str, object]:
    """Size, speed and accuracies of a saved encoder on captions drawn apart from training."""
    encoder = load_text_encoder(path)
    known = draw_storybook_examples(edition, count, seed=1_000_001)
    combinations = draw_held_out_combinations(edition, count, seed=1_000_002)
    synonyms = draw_storybook_examples(edition, count, seed=1_000_003, held_out=True)
    return {
        "edition": edition.name,
        "words_without_vector": sorted(edition_words(edition) - set(encoder.word_table.words)),
        "bytes": path.stat().st_size,
        "encode_ms": round(measure_encode_ms(encoder), 2),
        "threads": torch.get_num_threads(),
        "known_phrasing": measure_accuracy(encoder, known),
        "held_out_combinations": measure_accuracy(encoder, combinations),
        "held_out_synonyms_in_captions": measure_accuracy(encoder, synonyms),
        "held_out_synonyms_alone": measure_synonyms(edition, encoder),
    }


@dataclass(frozen=True)
class TextOptions:
    """A run of `train_text`.

    word_vectors: a word table or an encoder made before; None: one is distilled from the teacher.
    is_resumed: use the word table that an earlier run left in `out`, as it is.
    start: an encoder to go on from, word table and all; where the teacher is installed, the table
        grows by the edition's words.
    dictionary: a folder with WordNet's files; nouns are told by it as well, and the word table
        grows by some thousand.  Needs the teacher.
    """

    out: Path
    edition: Edition
    word_vectors: Path | None = None
    training: TextTraining = TextTraining()
    is_resumed: bool = False
    device: str = "cpu"
    start: Path | None = None
    dictionary: Path | None = None


def train_text(
    options: TextOptions, progress: Callable[[int, float], None] = lambda step, loss: None
) -> dict[str, object]:
    """Train the storybook text encoder; returns the report that also lies in `out`.

    progress: told the step and the loss.  Raises OutputError for a folder that cannot be written,
    ConfigError without the teacher's package, for a start of another edition and for a folder
    without a dictionary, WeightsError for a word table that cannot be read.
    """
    training = options.training
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{options.out}: cannot be written: {error.strerror}") from error
    edition = options.edition
    start = None if options.start is None else load_text_encoder(options.start)
    if start is not None and start.config.attributes != _encoder_config(edition, 1).attributes:
        raise ConfigError(
            f"{options.start}: reads other classes than the {edition.name} edition has"
        )
    before = None if start is None else start.word_table
    table = _obtain_words(options, before)
    config = _encoder_config(edition, table.width)
    if start is not None and start.config != config:
        raise ConfigError(f"{options.start}: of other sizes than the edition or the words have")
    examples = draw_storybook_examples(edition, training.num_captions, training.seed)
    examples += draw_fragments(edition, training.num_captions // 2, training.seed)
    hidden = _held_out_words(edition)
    batches = CaptionBatches(examples, config.attributes, table, hidden, before)
    encoder = train_text_encoder(batches, config, table, training, progress, options.device, start)
    path = options.out / "text.safetensors"
    save_text_encoder(encoder, path)
    listing = json.dumps(edition.listing(), indent=1, ensure_ascii=False)
    (options.out / "vocabulary.json").write_text(listing + "\n", encoding="utf-8")
    report = report_on(edition, path, training.report_captions)
    (options.out / "text.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _encoder_config(edition: Edition, word_width: int) -> TextEncoderConfig:
    return TextEncoderConfig(
        tuple(Attribute(name, classes) for name, classes in edition.attributes.items()),
        text_length=edition.text_length,
        text_width=edition.text_width,
        word_width=word_width,
        feed_forward_width=2 * edition.text_width,
    )


def _obtain_words(options: TextOptions, before: WordTable | None) -> WordTable:
    """The word table: a given one, an earlier run's, that of the start, or a new one."""
    own = options.out / "words.safetensors"
    words = edition_words(options.edition)
    dictionary = None if options.dictionary is None else Dictionary(options.dictionary)
    if options.word_vectors is not None:
        table = load_word_table(options.word_vectors)
    elif options.is_resumed and own.is_file():
        return load_word_table(own)
    elif before is not None:
        table = (
            before
            if dictionary is not None or not has_teacher()
            else grow_word_table(before, words)
        )
    else:
        table = build_word_table(own_words=words)
    if dictionary is not None:
        table = grow_word_table(table, words, dictionary)
    save_word_table(table, own)
    return table
