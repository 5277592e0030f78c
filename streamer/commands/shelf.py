"""What is known and what is on disk: the shipped configurations, and their files.

Looks at names and sizes of files only; whether their content fits is `models inspect`'s question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamer.config import Config, configs_dir, load_config, weights_path
from streamer.models.needs import Needs, needs

Presence = Literal["ready", "partial", "absent"]


@dataclass(frozen=True)
class ShelfEntry:
    """One model that can be run.

    missing: files of the configuration that are not there.
    """

    config: Config
    needs: Needs
    missing: tuple[Path, ...]
    num_files: int

    @property
    def presence(self) -> Presence:
        """How much of it is on disk."""
        if not self.missing:
            return "ready"
        return "partial" if len(self.missing) < self.num_files else "absent"

    @property
    def download_bytes(self) -> int:
        """What fetching all of it would bring."""
        source = self.config.source
        return sum(each.bytes for each in source.downloads) if source else 0


def shelf() -> list[ShelfEntry]:
    """Every shipped configuration that has weights, smallest first."""
    entries = []
    for path in sorted(configs_dir().glob("*.json")):
        config = load_config(path)
        if config.model is not None:
            entries.append(entry_of(config))
    return sorted(entries, key=lambda entry: (entry.needs.transformer, entry.config.name))


def entry_of(config: Config) -> ShelfEntry:
    """What is on disk of one configuration."""
    files = list(files_of(config))
    missing = tuple(path for path in files if not path.exists())
    return ShelfEntry(config, needs(config), missing, len(files))


def files_of(config: Config) -> Iterator[Path]:
    """Every file and folder that a configuration names."""
    model = config.model
    if model is None:
        return
    names = [*model.transformer.weights, *(lora.weights for lora in model.transformer.loras)]
    names += [model.decoder.weights, model.text.weights, model.text.tokenizer]
    for name in names:
        if name:
            yield weights_path(name)
