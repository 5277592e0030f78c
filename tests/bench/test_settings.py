"""What a benchmark changes of a configuration."""

import pytest

from streamer.bench.settings import Settings
from streamer.config import Config, load_config
from streamer.errors import ConfigError


@pytest.fixture(scope="module")
def wan() -> Config:
    return load_config("wan2.1-t2v-1.3b-self-forcing")


def test_nothing_asked_changes_nothing(wan: Config):
    assert Settings().apply(wan) == wan
    assert Settings().label() == "as configured"


def test_every_setting_arrives(wan: Config):
    text = (
        "window=12, sink=0,steps=2,size=416x240,decoder=taehv,backend=torch,eight-bit=fp8,"
        "graphs=false,random_weights=true,eight_bit_cache=int8,fused=false"
    )
    made = Settings.parse(text).apply(wan)
    assert made.model is not None
    assert (made.stream.window, made.stream.sink) == (12, 0)
    assert (made.stream.width, made.stream.height) == (416, 240)
    assert made.model.sampler.denoising_step_list == [1000, 500]
    assert (made.model.decoder.kind, made.model.kernels) == ("taehv", "torch")
    assert (made.model.eight_bit, made.model.graphs) == ("fp8", False)
    assert (made.model.eight_bit_cache, made.model.fused) == ("int8", False)
    assert made.model.random_weights


def test_what_is_said_twice_counts_as_said_nearer():
    merged = Settings.parse("window=12").over(Settings(window=21, steps=3))
    assert merged == Settings(window=12, steps=3)
    assert merged.label() == "window=12,steps=3"


def test_a_random_storybook_takes_other_sizes():
    made = Settings(size="512x320", random_weights=True).apply(load_config("storybook"))
    assert made.model is not None
    assert made.model.transformer.learned_grid == (10, 16)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(steps=5), "the model has 4 steps; choose from 1 to 4"),
        (Settings(size="wide"), "write width x height"),
        (Settings(decoder="jpeg"), "choose one of tiny, wan, lightvae, taehv"),
        (Settings(decoder="taehv"), "write --decoder taehv=PATH, or add --random-weights"),
        (Settings(window=4), "must hold the sinks and the block"),
        (Settings(backend="cuda"), "kernels"),
    ],
)
def test_impossible_settings_are_one_sentence(wan: Config, settings: Settings, says: str):
    with pytest.raises(ConfigError, match=says):
        settings.apply(wan)


@pytest.mark.parametrize("text", ["windows=3", "window", "window=x", "graphs=1"])
def test_unreadable_settings_are_named(text: str):
    with pytest.raises(ConfigError, match=text.partition("=")[0]):
        Settings.parse(text)


def test_a_pattern_has_no_steps():
    with pytest.raises(ConfigError, match="pattern has no model, so steps mean nothing"):
        Settings(steps=2).apply(load_config("pattern"))
