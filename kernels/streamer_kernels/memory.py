"""A file that remembers which backends were chosen, for which device, versions and shape."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Memory:
    """A file of choices.  A damaged or unwritable file costs time, never the start.

    key: what the choices hold for: device, versions, shape.
    """

    path: Path | None
    key: str

    def recall(self, group: str) -> str | None:
        """The name chosen before for a group of operations, if any."""
        found = self._read().get(self.key, {}).get(group)
        name = found.get("name") if isinstance(found, dict) else None
        return name if isinstance(name, str) else None

    def keep(self, choices: Mapping[str, Mapping[str, object]]) -> None:
        """Write down the choices by group, each with its `name`, beside those of other keys."""
        if self.path is None:
            return
        stored = self._read()
        stored[self.key] = choices
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(stored, indent=1), encoding="utf-8")
            partial.replace(self.path)
        except OSError as error:
            logger.warning("event=choices_not_kept path=%s error=%s", self.path, error)

    def _read(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("event=choices_unreadable path=%s error=%s", self.path, error)
            return {}
        is_sound = isinstance(stored, dict) and all(isinstance(x, dict) for x in stored.values())
        return stored if is_sound else {}


def default_path() -> Path:
    """Where choices are kept: $XDG_CACHE_HOME/streamer/kernels.json."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "streamer" / "kernels.json"
