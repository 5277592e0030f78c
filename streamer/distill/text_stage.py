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
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamer.distill.captions import (
    HELD_OUT_SYNONYMS,
    MOTION_WORDS,
    SCENE_WORDS,
    SUBJECT_WORDS,
    TIME_WORDS,
    WEATHER_WORDS,
    Caption,
    caption,
    held_out_combination,
    sample_pair,
)
from streamer.distill.words import build_word_table, save_word_table
from streamer.distill.world import ATTRIBUTES, SceneSpec
from streamer.errors import OutputError
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
# Further ways to say a class, so that common words outside the captions land where they should:
# things the world does not have become the most alike thing it has.  No held-out synonym is here.
THESAURUS: dict[str, dict[str, tuple[str, ...]]] = {
    "scene": {
        "meadow": ("in the park", "on a farm", "in the garden", "on the grassland", "on a prairie",
                   "among flowers", "in a valley", "on a hillside"),
        "mountains": ("on a cliff", "on a volcano", "on the rocks", "above a canyon", "on a ridge",
                      "in the highlands"),
        "desert": ("on the dunes", "in the wilderness", "beside a cactus", "at the oasis"),
        "ocean": ("at the beach", "by the lake", "on the river", "underwater", "near the coast",
                  "on an island", "at the harbor", "in the bay", "on stormy seas"),
        "city": ("in the village", "on the road", "by the tower", "on the highway", "at the market",
                 "in new york", "by the castle", "near the houses"),
        "forest": ("in the jungle", "in the rainforest", "under the trees", "in the grove"),
    },
    "time": {
        "day": ("in the morning", "in the afternoon", "daytime", "by daylight", "the sun is high"),
        "sunset": ("at dawn", "at sunrise", "at sundown", "golden hour", "the sun rises",
                   "the sun sets", "an orange sky"),
        "night": ("in the moonlight", "under a starry sky", "nighttime", "in darkness", "tonight",
                  "starlight", "the moon rises"),
    },
    "weather": {
        "clear": ("sunny", "sunshine", "a cloudless sky", "a blue sky", "no rain", "no snow",
                  "without rain", "without snow", "the rain stops", "the snow stops",
                  "it stops raining", "it stops snowing", "no more rain", "no more snow",
                  "the sky clears", "the sun comes out"),
        "rain": ("a storm", "stormy", "thunderstorm", "showers", "pouring rain", "wet weather",
                 "heavy rain", "cloudy", "foggy", "fog", "mist", "overcast"),
        "snow": ("snowfall", "snowflakes", "frost", "icy", "a wintry day", "heavy snow", "flurries",
                 "freezing cold"),
    },
    "subject": {
        "balloon": ("an airship", "a kite", "a blimp", "balloons", "a parachute"),
        "dog": ("a wolf", "a fox", "a terrier", "dogs", "a puppy dog"),
        "cat": ("a tiger", "a lion", "a leopard", "cats", "a feline"),
        "rabbit": ("a mouse", "a squirrel", "rabbits", "a hedgehog", "a hamster"),
        "horse": ("a donkey", "a zebra", "a unicorn", "a cow", "a camel", "horses", "a deer",
                  "a goat"),
        "elephant": ("a mammoth", "a rhinoceros", "a hippo", "elephants"),
        "penguin": ("penguins", "a duck", "a chicken"),
        "parrot": ("an eagle", "a crow", "a seagull", "birds", "an owl", "a pigeon", "a parakeet",
                   "a swan"),
        "butterfly": ("a bee", "a dragonfly", "a ladybug", "butterflies", "an insect"),
        "fish": ("a shark", "a salmon", "a trout", "fishes", "a turtle", "a crab"),
        "whale": ("a dolphin", "whales", "a seal", "a submarine"),
        "dinosaur": ("a dragon", "a lizard", "a crocodile", "dinosaurs", "a monster",
                     "a tyrannosaurus", "a giraffe"),
        "car": ("a truck", "a taxi", "cars", "a vehicle", "a jeep", "a motorcycle", "a van"),
        "bus": ("a train", "a tram", "buses", "a minibus", "a locomotive", "a school bus"),
        "sailboat": ("a ship", "boats", "a ferry", "a canoe", "a schooner", "a pirate ship"),
        "rocket": ("a ufo", "a flying saucer", "rockets", "a space shuttle", "a missile"),
        "airplane": ("a helicopter", "airplanes", "an airliner", "a glider", "a drone"),
        "ball": ("a basketball", "balls", "a sphere", "a globe", "an orb"),
        "star": ("stars", "a comet", "a diamond", "a shooting star", "a planet"),
        "robot": ("robots", "a machine", "a man", "a woman", "a boy", "a girl", "a knight",
                  "an astronaut", "a person", "people", "a wizard", "a child", "a cyborg"),
        "none": ("no animals", "no people", "empty", "only the landscape", "nothing"),
    },
    "motion": {
        "rests": ("sitting", "sleeping", "waits", "sits", "stops", "stay still", "lies down"),
        "moves left": ("runs left", "walks left", "flies left", "to the left", "turn left",
                       "rushes left"),
        "moves right": ("runs right", "walks right", "flies right", "to the right", "turn right",
                        "rushes right"),
        "bounces": ("leaps", "leaping", "jump", "dancing", "dances", "skips", "bounce"),
        "floats": ("drifts", "drifting", "gliding", "soars", "hovers", "float"),
        "circles": ("circles", "runs in circles", "around and around", "circle around"),
        "spins": ("rotates", "spin", "swirling", "rolls over", "tumbling", "revolves"),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A caption and what it mentions: attribute -> class; attributes it leaves open are absent."""

    text: str
    mentions: dict[str, str]


@dataclass(frozen=True)
class TextTraining:
    """How long and how hard to train."""

    num_captions: int = 40_000
    steps: int = 1_600
    batch: int = 96
    learning_rate: float = 2e-3
    replace_chance: float = 0.25
    noise: float = 0.35
    seed: int = 0


# ---------------------------------------------------------------- captions as tensors


@dataclass(frozen=True)
class CaptionBatch:
    """vectors [B, N, D]; is_word bool [B, N]; labels long [B, attributes]; gist [B, D].

    The gist is the mean vector of the caption's own words, without small talk and noise.
    """

    vectors: Tensor
    is_word: Tensor
    labels: Tensor
    gist: Tensor


class CaptionBatches:
    """Captions ready to be drawn in augmented batches.

    Owned by one training run.  All words live in one matrix: the caption words first (row 0 is
    padding), then the words that may replace them, then small talk.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        attributes: Sequence[Attribute],
        table: WordTable,
        hidden_words: Iterable[str] = (),
    ) -> None:
        """hidden_words: never used as replacements, so that they stay unseen for the report."""
        tokens = [split_words(clean_prompt(example.text)) for example in examples]
        words = sorted({word for sentence in tokens for word in sentence})
        talk = [split_words(phrase) for phrase in SMALL_TALK]
        talk_words = sorted({word for phrase in talk for word in phrase})
        hidden = set(hidden_words) | set(words) | set(talk_words)
        self.labels = label_examples(examples, attributes)
        self._nothing = torch.tensor([len(attribute.classes) for attribute in attributes])
        vectors = table.look_up(words)
        self.replacements, self._unrelated = _find_replacements(vectors, table, hidden)
        self.vectors = torch.cat(
            (
                torch.zeros(1, table.width),
                vectors,
                table.look_up(talk_words),
                table.vectors(torch.arange(len(table.words))),
            )
        )
        self._table_offset = 1 + len(words) + len(talk_words)
        index = {word: 1 + i for i, word in enumerate(words)}
        talk_index = {word: 1 + len(words) + i for i, word in enumerate(talk_words)}
        self._sentences = [[index[word] for word in sentence] for sentence in tokens]
        self._talk = [[talk_index[word] for word in phrase] for phrase in talk]

    def draw(self, training: TextTraining, max_words: int, chance: random.Random) -> CaptionBatch:
        """A batch, one in sixteen of its captions being small talk only."""
        rows: list[list[int]] = []
        labels = self._nothing.expand(training.batch, -1).clone()
        gist = torch.zeros(training.batch, self.vectors.shape[1])
        for i in range(training.batch):
            sentence: list[int] = []
            if chance.random() >= 1 / 16:
                choice = chance.randrange(len(self._sentences))
                sentence = self._replace(self._sentences[choice], training.replace_chance, chance)
                labels[i] = self.labels[choice]
                gist[i] = self.vectors[sentence].mean(dim=0)
            rows.append(self._talk_around(sentence, chance)[:max_words])
        longest = max(1, max(len(row) for row in rows))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        vectors = self.vectors[padded]
        strength = training.noise * torch.rand(training.batch, 1, 1)
        vectors = vectors + strength * torch.randn_like(vectors)
        return CaptionBatch(vectors, padded > 0, labels, gist)

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

    def _talk_around(self, sentence: list[int], chance: random.Random) -> list[int]:
        if sentence and chance.random() < 0.6:
            return sentence
        for _ in range(chance.choice((1, 1, 2, 4))):
            phrase = chance.choice(self._talk)
            if chance.random() < 0.3 and self._unrelated:
                phrase = [self._table_offset + chance.choice(self._unrelated) for _ in phrase[:2]]
            sentence = phrase + sentence if chance.random() < 0.6 else sentence + phrase
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
    most: int = 16,
    least: float = 0.42,
    unlike: float = 0.25,
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
) -> StorybookTextEncoder:
    """Train an encoder on captions.  Result: in evaluation mode, without gradients.

    The loss is the cross-entropy of every attribute, lightly smoothed so that doubt stays visible,
    plus 1 - cosine between the caption's gist and what the free slots tell of it.
    """
    torch.manual_seed(training.seed)
    chance = random.Random(training.seed)
    encoder = StorybookTextEncoder(config, table).train()
    num_named = len(config.attributes)
    num_free = config.text_length - num_named
    read_gist = nn.Linear(max(1, num_free) * config.text_width, config.word_width)
    parameters = [*encoder.parameters(), *read_gist.parameters()]
    optimizer = torch.optim.AdamW(parameters, training.learning_rate, weight_decay=0.02)
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * _learning_rate_at(step, training.steps)
        batch = batches.draw(training, config.max_words, chance)
        logits = encoder(batch.vectors, batch.is_word)
        loss = torch.stack(
            [
                F.cross_entropy(choices, batch.labels[:, i], label_smoothing=0.03)
                for i, choices in enumerate(logits[:num_named])
            ]
        ).sum()
        if num_free:
            told = read_gist(encoder.mix(logits)[:, num_named:].flatten(1))
            loss = loss + 1.0 - F.cosine_similarity(told, batch.gist, dim=1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress(step + 1, float(loss.detach()))
    return encoder.eval().requires_grad_(False)


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


def draw_storybook_examples(count: int, seed: int, held_out: bool = False) -> list[Example]:
    """Captions of the storybook world.  held_out: with the synonyms kept back from training."""
    chance = random.Random(seed)
    drawn = (sample_pair(chance, held_out=held_out) for _ in range(count))
    return [_example(spec, caption) for spec, caption in drawn]


def draw_held_out_combinations(count: int, seed: int) -> list[Example]:
    """Known words for scene, subject and time of day that training never combines."""
    chance = random.Random(seed)
    examples: list[Example] = []
    while len(examples) < count:
        spec = SceneSpec(*(chance.randrange(len(names)) for names in ATTRIBUTES.values()))
        if held_out_combination(spec):
            examples.append(_example(spec, caption(spec, chance)))
    return examples


def draw_fragments(count: int, seed: int) -> list[Example]:
    """Loose phrases as a viewer types them, with the thesaurus: "it spins", "a ufo, at night"."""
    chance = random.Random(seed)
    tables = {
        "subject": SUBJECT_WORDS,
        "motion": MOTION_WORDS,
        "scene": SCENE_WORDS,
        "time": TIME_WORDS,
        "weather": WEATHER_WORDS,
    }
    examples = []
    for _ in range(count):
        names = chance.sample(list(tables), chance.choice((1, 1, 2, 2, 3, 4)))
        if chance.random() < 0.5:
            names.sort(key=list(tables).index)
        mentions = {name: chance.choice(ATTRIBUTES[name]) for name in names}
        phrases = []
        for name, said in mentions.items():
            usual, more = tables[name].get(said, ()), THESAURUS[name].get(said, ())
            phrases.append(chance.choice(more if more and chance.random() < 0.6 else usual or more))
        opening = chance.choice(("", "", "", "it is ", "now it ", "and "))
        examples.append(Example(opening + chance.choice((", ", " ")).join(phrases), mentions))
    return examples


def _example(spec: SceneSpec, said: Caption) -> Example:
    numbers = asdict(spec)
    mentions = {
        name: classes[numbers[name]]
        for name, classes in ATTRIBUTES.items()
        if name in said.mentions
    }
    return Example(said.text, mentions)


def _held_out_words() -> set[str]:
    phrases = (
        phrase
        for classes in HELD_OUT_SYNONYMS.values()
        for wordings in classes.values()
        for phrase in wordings
    )
    return {word for phrase in phrases for word in split_words(phrase)}


def measure_synonyms(encoder: StorybookTextEncoder) -> dict[str, object]:
    """Each held-out wording on its own: the share read right per attribute, and every miss."""
    result: dict[str, object] = {}
    for name, classes in HELD_OUT_SYNONYMS.items():
        wordings = [(phrase, wanted) for wanted, said in classes.items() for phrase in said]
        read = [encoder.describe(phrase)[name][0] for phrase, _ in wordings]
        misses = [
            f"{phrase}: {got}, not {wanted}"
            for (phrase, wanted), got in zip(wordings, read, strict=True)
            if got != wanted
        ]
        result[name] = {"right": 1.0 - len(misses) / len(wordings), "misses": misses}
    return result


def report_on(path: Path, count: int) -> dict[str, object]:
    """Size, speed and accuracies of a saved encoder on captions drawn apart from training."""
    encoder = load_text_encoder(path)
    known = draw_storybook_examples(count, seed=1_000_001)
    combinations = draw_held_out_combinations(count, seed=1_000_002)
    synonyms = draw_storybook_examples(count, seed=1_000_003, held_out=True)
    return {
        "bytes": path.stat().st_size,
        "encode_ms": round(measure_encode_ms(encoder), 2),
        "threads": torch.get_num_threads(),
        "known_phrasing": measure_accuracy(encoder, known),
        "held_out_combinations": measure_accuracy(encoder, combinations),
        "held_out_synonyms_in_captions": measure_accuracy(encoder, synonyms),
        "held_out_synonyms_alone": measure_synonyms(encoder),
    }


@dataclass(frozen=True)
class TextOptions:
    """A run of `train_text`.

    word_vectors: a word table or an encoder made before; None: one is distilled from the teacher.
    is_resumed: use the word table that an earlier run left in `out`.
    report_captions: captions behind every accuracy of the report.
    """

    out: Path
    word_vectors: Path | None = None
    training: TextTraining = TextTraining()
    report_captions: int = 2000
    is_resumed: bool = False


def train_text(
    options: TextOptions, progress: Callable[[int, float], None] = lambda step, loss: None
) -> dict[str, object]:
    """Train the storybook text encoder; returns the report that also lies in `out`.

    progress: told the step and the loss.  Raises OutputError for a folder that cannot be written,
    ConfigError without the teacher's package, WeightsError for a word table that cannot be read.
    """
    training = options.training
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{options.out}: cannot be written: {error.strerror}") from error
    table = _obtain_words(options)
    attributes = tuple(Attribute(name, classes) for name, classes in ATTRIBUTES.items())
    config = TextEncoderConfig(attributes, word_width=table.width)
    examples = draw_storybook_examples(training.num_captions, training.seed)
    examples += draw_fragments(training.num_captions // 2, training.seed)
    batches = CaptionBatches(examples, attributes, table, _held_out_words())
    encoder = train_text_encoder(batches, config, table, training, progress)
    path = options.out / "text.safetensors"
    save_text_encoder(encoder, path)
    report = report_on(path, options.report_captions)
    (options.out / "text.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _obtain_words(options: TextOptions) -> WordTable:
    """The word table: a given one, an earlier run's, or a new one."""
    own = options.out / "words.safetensors"
    if options.word_vectors is not None:
        return load_word_table(options.word_vectors)
    if options.is_resumed and own.is_file():
        return load_word_table(own)
    table = build_word_table()
    save_word_table(table, own)
    return table
