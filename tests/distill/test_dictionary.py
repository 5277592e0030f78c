from pathlib import Path

import pytest

from streamer.distill.dictionary import Dictionary
from streamer.errors import ConfigError
from tests.distill.tiny_wordnet import write_wordnet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_wordnet(tmp_path)


def test_a_noun_has_its_kinds_and_its_definition(folder: Path) -> None:
    (sense,) = Dictionary(folder).senses("macaw")
    assert sense.names == ("macaw",)
    assert sense.kinds == ("parrot", "bird", "animal")
    assert sense.gloss == "long-tailed parrot"
    (bird,) = Dictionary(folder).senses("bird")
    assert bird.gloss == "warm-blooded egg-laying vertebrates"
    assert bird.count == 25


def test_what_cannot_be_seen_is_left_out(folder: Path) -> None:
    (sense,) = Dictionary(folder).senses("coach")
    assert sense.names == ("bus", "coach")
    assert Dictionary(folder).senses("manager") == ()


def test_a_word_that_mostly_means_what_cannot_be_seen_has_no_senses(folder: Path) -> None:
    assert Dictionary(folder).senses("rest") == ()
    assert Dictionary(folder).senses("unheard") == ()


@pytest.mark.parametrize(
    ("plural", "singular"),
    [("macaws", "macaw"), ("buses", "bus"), ("mice", "mouse"), ("coaches", "coach")],
)
def test_plurals_mean_what_their_singulars_do(folder: Path, plural: str, singular: str) -> None:
    dictionary = Dictionary(folder)
    assert dictionary.senses(plural) == dictionary.senses(singular) != ()


def test_it_lists_single_words_without_proper_names(folder: Path) -> None:
    assert list(Dictionary(folder)) == [
        "animal", "bird", "parrot", "macaw", "vehicle", "bus", "coach", "engine", "mouse",
    ]  # fmt: skip


def test_another_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wordnet-base"):
        Dictionary(tmp_path)
    for text in ("something else\n", ""):
        for name in ("data.noun", "index.noun", "noun.exc", "cntlist.rev"):
            (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match="no WordNet"):
            Dictionary(tmp_path)


def test_files_that_do_not_belong_together_are_refused(folder: Path) -> None:
    with (folder / "index.noun").open("a") as index:
        index.write("zebra n 1 1 @ 1 0 00009999\n")
    with pytest.raises(ConfigError, match=r"data\.noun has not all"):
        Dictionary(folder)
