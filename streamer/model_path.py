"""A configuration whose weights are looked for in one folder: `--model-path`."""

from __future__ import annotations

from pathlib import Path

from streamer.config import Config
from streamer.errors import ConfigError
from streamer.places import MODELS, weights_path


def at_model_path(config: Config, folder: Path) -> Config:
    """The same configuration with its weights in one folder, wherever they lie in it.

    `models/Wan2.1-T2V-14B/google/umt5-xxl` is looked for as google/umt5-xxl and as umt5-xxl; a
    transformer that is not found by name is looked for by content, in the whole folder.  A small
    decoder that is not found is done without.
    Raises ConfigError when the folder, the decoder or the text encoder is not there.
    """
    if not folder.is_dir():
        raise ConfigError(f"--model-path {folder}: there is no such folder")
    if config.model is None:
        raise ConfigError(f"{config.name} has no weights: leave out --model-path")
    model = config.model
    weights = [_found_in(folder, name) for name in model.transformer.weights]
    transformer = model.transformer.model_copy(
        update={
            "weights": [str(path) for path in weights if path is not None] or [str(folder)],
            "loras": [
                lora.model_copy(update={"weights": str(_required(folder, lora.weights))})
                for lora in model.transformer.loras
            ],
        }
    )
    decoder, small, text = model.decoder, model.small_decoder, model.text
    if small is not None and (found := _found_in(folder, small.weights)) is not None:
        small = small.model_copy(update={"weights": str(found)})
    changed = {
        "transformer": transformer,
        "decoder": decoder.model_copy(update={"weights": str(_required(folder, decoder.weights))}),
        "small_decoder": small,
        "text": text.model_copy(
            update={
                "weights": str(_required(folder, text.weights)),
                "tokenizer": str(_required(folder, text.tokenizer)) if text.tokenizer else "",
            }
        ),
    }
    return config.model_copy(update={"model": model.model_copy(update=changed)})


def _required(folder: Path, name: str) -> Path:
    found = _found_in(folder, name)
    if found is None:
        raise ConfigError(
            f"{folder}: there is no {name.removeprefix(MODELS)} in it, nor where the configuration "
            "says; `streamer models pull` gets it"
        )
    return found


def _found_in(folder: Path, name: str) -> Path | None:
    """Where a file of the configuration is in a folder, or where it is anyway; None: nowhere."""
    if not name.startswith(MODELS):
        path = weights_path(name)
        return path if path.exists() else None
    parts = name.removeprefix(MODELS).split("/")
    candidates = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((path for path in (*candidates, weights_path(name)) if path.exists()), None)
