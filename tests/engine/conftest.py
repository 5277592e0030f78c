"""The tiny model, loaded once for all tests of the engine."""

import pytest

from streamer.config import Config
from streamer.engine.diffusion import DiffusionModel
from tests.engine.tiny_model import make_tiny_config


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return make_tiny_config(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_model(tiny_config: Config) -> DiffusionModel:
    return DiffusionModel(tiny_config, lambda part, stage: None)
