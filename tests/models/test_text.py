import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from streamer.errors import WeightsError
from streamer.models.text import (
    NOT_MENTIONED,
    Attribute,
    StorybookTextEncoder,
    TextEncoder,
    TextEncoderConfig,
    WordTable,
    clean_prompt,
    load_text_encoder,
    load_word_table,
    save_text_encoder,
    split_words,
)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "open" / "g_prompt_cleaning.json"
WEIGHTS = ROOT / "streamer" / "assets" / "storybook" / "text.safetensors"
WORDS = ("snow", "rain", "balloon", "moon", "light", "elephant", "dog", "hill", "night")


@pytest.fixture
def table() -> WordTable:
    vectors = torch.randn(len(WORDS), 16, generator=torch.Generator().manual_seed(0))
    return WordTable.quantise(WORDS, vectors)


@pytest.fixture
def encoder(table: WordTable) -> StorybookTextEncoder:
    torch.manual_seed(0)
    attributes = (Attribute("time", ("day", "night")), Attribute("weather", ("rain", "snow")))
    config = TextEncoderConfig(
        attributes, text_length=4, text_width=32, word_width=16, num_heads=2, num_free_codes=5
    )
    return StorybookTextEncoder(config, table).eval()


@pytest.fixture(scope="module")
def shipped() -> TextEncoder:
    return load_text_encoder(WEIGHTS)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  A cat   walks\n\non the\tgrass.  ", "A cat walks on the grass."),
        ("sch\u00c3\u00b6ne Gr\u00c3\u00bc\u00c3\u0178e", "sch\u00f6ne Gr\u00fc\u00dfe"),
        ("Tom &amp;amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("\ufb01ne \ufb02ow ligatures", "fine flow ligatures"),
        ("a\u00a0non\u200bbreaking\u3000space", "a non\u200bbreaking space"),
        ("null\u0000char and \u001b[31mansi\u001b[0m", "nullchar and ansi"),
        ("   ", ""),
    ],
)
def test_cleaning_repairs_and_tidies_a_prompt(raw: str, cleaned: str) -> None:
    assert clean_prompt(raw) == cleaned


def test_cleaning_agrees_with_the_recorded_cases() -> None:
    if not GOLDEN.exists():
        pytest.skip("the recorded reference cases are not beside this checkout")
    for case in json.loads(GOLDEN.read_text())["cases"]:
        assert clean_prompt(case["raw"]) == case["cleaned"]


def test_words_are_lower_case_letters_without_accents() -> None:
    assert split_words("It's a Caf\u00e9, 3 SNOWY-hills!") == ["its", "a", "cafe", "snowy", "hills"]


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("snow", ["snow"]),
        ("baloon", ["balloon"]),
        ("snwo", ["snow"]),
        ("elefant", ["elephant"]),
        ("hills", ["hill"]),
        ("snowing", ["snow"]),
        ("moonlight", ["moon", "light"]),
        ("xqzt", []),
    ],
)
def test_a_word_outside_the_table_maps_to_the_nearest_spelling(
    table: WordTable, written: str, understood: list[str]
) -> None:
    assert [table.words[row] for row in table.find(written)] == understood


def test_two_parts_of_a_word_are_averaged_and_an_unlike_word_is_zero(table: WordTable) -> None:
    both = table.look_up(["moon", "light"]).mean(dim=0)
    looked_up = table.look_up(["moonlight", "xqzt"])
    assert torch.equal(looked_up[0], both)
    assert not looked_up[1].any()


def test_quantising_keeps_vectors_within_half_a_step() -> None:
    vectors = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    table = WordTable.quantise(["a", "b", "c", "d", "e"], vectors)
    error = (table.vectors(torch.arange(5)) - vectors).abs()
    assert (error <= table.scales[:, None] * 0.5001).all()


def test_a_word_table_with_a_missing_row_is_refused() -> None:
    with pytest.raises(ValueError, match="one row and scale per word"):
        WordTable(["a", "b"], torch.zeros(1, 4, dtype=torch.int8), torch.ones(2))


def test_slots_have_the_promised_shape_and_unit_rms(encoder: StorybookTextEncoder) -> None:
    slots = encoder.encode(["snow at night", "", "xqzt"])
    assert slots.shape == (3, encoder.text_length, encoder.text_width)
    rms = slots.square().mean(dim=-1).sqrt()
    torch.testing.assert_close(rms, torch.ones_like(rms), atol=1e-5, rtol=0)


def test_a_prompt_gives_the_same_slots_alone_and_beside_longer_ones(
    encoder: StorybookTextEncoder,
) -> None:
    alone = encoder.encode(["snow"])
    beside = encoder.encode(["a dog and a balloon in the rain at night", "snow"])[1:]
    # Attention sums in another order when rows are padded: float32 rounding only.
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=0)


def test_slots_stay_in_the_span_of_their_own_prototypes(encoder: StorybookTextEncoder) -> None:
    slot = encoder.encode(["an elephant in the snow"])[0, 1].double()
    own = encoder.prototypes[3:6].double()
    kept = (slot @ own.T) @ own / encoder.text_width
    # Float32 prototypes are orthogonal to about 1e-6.
    torch.testing.assert_close(kept, slot, atol=1e-4, rtol=0)


def test_a_certain_slot_equals_its_prototype(encoder: StorybookTextEncoder) -> None:
    certain = [torch.tensor([[0.0, 200.0] + [0.0] * (n - 2)]) for n in (3, 3, 5, 5)]
    rows = encoder.prototypes[[1, 4, 7, 12]]
    torch.testing.assert_close(encoder.mix(certain)[0], rows, atol=1e-4, rtol=0)


def test_word_order_matters(encoder: StorybookTextEncoder) -> None:
    with torch.no_grad():
        for layer in encoder.layers:
            layer.distance_bias.normal_(generator=torch.Generator().manual_seed(2))
    one, other = encoder.encode(["dog snow night", "night snow dog"])
    assert (one - other).abs().max() > 1e-3


def test_words_beyond_the_limit_change_nothing(encoder: StorybookTextEncoder) -> None:
    full = " ".join(["snow"] * encoder.config.max_words)
    assert torch.equal(encoder.encode([full]), encoder.encode([full + " rain rain night"]))


def test_describe_names_a_class_or_not_mentioned(encoder: StorybookTextEncoder) -> None:
    described = encoder.describe("snow")
    assert list(described) == ["time", "weather"]
    assert described["weather"][0] in ("rain", "snow", NOT_MENTIONED)
    assert 1 / 3 <= described["weather"][1] <= 1.0


def test_too_many_attributes_for_the_slots_are_refused() -> None:
    attributes = tuple(Attribute(f"a{i}", ("x",)) for i in range(9))
    with pytest.raises(ValueError, match="9 attributes do not fit into text_length 8"):
        TextEncoderConfig(attributes)


def test_a_saved_encoder_reads_prompts_like_the_original(
    encoder: StorybookTextEncoder, tmp_path: Path
) -> None:
    path = tmp_path / "text.safetensors"
    save_text_encoder(encoder, path)
    loaded = load_text_encoder(path)
    assert loaded.config == encoder.config
    prompts = ["snow at night", "baloon"]
    # Weights are stored in half precision: 2^-11 relative, amplified by the softmax.
    torch.testing.assert_close(loaded.encode(prompts), encoder.encode(prompts), atol=2e-2, rtol=0)
    assert load_word_table(path).words == WORDS


def test_a_bad_weights_file_is_named_with_its_fault(
    encoder: StorybookTextEncoder, tmp_path: Path
) -> None:
    path = tmp_path / "text.safetensors"
    with pytest.raises(WeightsError, match="there is no such weights file"):
        load_text_encoder(path)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(WeightsError, match="damaged weights file"):
        load_text_encoder(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="format is None"):
        load_text_encoder(path)
    with pytest.raises(WeightsError, match="holds no word table"):
        load_word_table(path)
    save_text_encoder(encoder, path)
    header = {"format": "streamer-text-1", "config": _config_in(path)}
    tensors = load_file(path)
    del tensors["model.start"]
    save_file(tensors, path, metadata=header)
    with pytest.raises(WeightsError, match=r"(?s)damaged text encoder.*start"):
        load_text_encoder(path)


def _config_in(path: Path) -> str:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    config: str = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]["config"]
    return config


def test_shipped_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size <= 3_500_000


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red balloon over green hills", {"subject": "balloon", "scene": "meadow"}),
        ("night falls, snow", {"time": "night", "weather": "snow"}),
        ("it starts to rain", {"weather": "rain"}),
        ("A PUPPY in the forrest at sunsett", {"subject": "dog", "scene": "forest"}),
        ("", {}),
    ],
)
def test_shipped_encoder_reads_what_a_prompt_mentions(
    shipped: StorybookTextEncoder, prompt: str, expected: dict[str, str]
) -> None:
    read = shipped.describe(prompt)
    assert {name: read[name][0] for name in expected} == expected
    if len(prompt.split()) < 5:
        others = {name: value[0] for name, value in read.items() if name not in expected}
        assert set(others.values()) == {NOT_MENTIONED}


def test_shipped_prototypes_are_well_conditioned(shipped: StorybookTextEncoder) -> None:
    rows = shipped.prototypes.double()
    singular = torch.linalg.svdvals(rows) / math.sqrt(shipped.text_width)
    # Orthogonal rows stored in half precision.
    assert singular.min() > 0.99
    assert singular.max() < 1.01
