"""A file that remembers which backends were chosen, for which device, versions and shape.

A kernel that reads where it must not spoils the device for its whole process, and one that hangs is
killed with it; neither can be caught.  So what is being tried is noted beside the file while it is
tried, and later processes leave out what earlier ones did not survive.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

NOTE = ".trying-"
"""Ends the name of a note, before the number of the process that wrote it."""


ENOUGH = 2
"""So many processes must have ended while they tried a backend."""


@dataclass(frozen=True)
class _Note:
    """What a process is trying.  is_sure: it has seen the device spoiled by it."""

    key: str
    group: str
    name: str
    is_sure: bool = False


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

    def begin(self, group: str, name: str) -> None:
        """Note that this process is about to try a backend for a group of operations."""
        self._write_note(_Note(self.key, group, name))

    def end(self) -> None:
        """The try is over, and this process goes on."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self._note(os.getpid()).unlink(missing_ok=True)

    def condemn(self, group: str, name: str) -> None:
        """This process has seen that it cannot go on after trying a backend."""
        self._write_note(_Note(self.key, group, name, is_sure=True))

    def fatal(self, group: str) -> dict[str, Path]:
        """Backends that earlier processes did not survive trying, each with a note that says so.

        A process that ends meanwhile may have been ended by somebody: it takes two.
        """
        suspects: Counter[str] = Counter()
        found = {}
        for file, note in _notes(self.path):
            if (note.key, note.group) != (self.key, group):
                continue
            suspects[note.name] += ENOUGH if note.is_sure else 1
            if suspects[note.name] >= ENOUGH:
                found[note.name] = file
        return found

    def _write_note(self, note: _Note) -> None:
        if self.path is None:
            return
        # Where nothing can be written, nothing is remembered; `keep` says so.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._note(os.getpid()).write_text(json.dumps(asdict(note)), encoding="utf-8")

    def _note(self, pid: int) -> Path:
        assert self.path is not None
        return self.path.with_suffix(f"{NOTE}{pid}")

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


def condemn_hanging(path: Path) -> list[str]:
    """After processes were killed because they hung: what they were trying counts as fatal.

    path: the file of choices.  result: the backends' names, those that were known before left out.
    """
    found = [(file, note) for file, note in _notes(path) if not note.is_sure]
    for file, note in found:
        file.write_text(json.dumps(asdict(note) | {"is_sure": True}), encoding="utf-8")
    return sorted({note.name for _, note in found})


def _notes(path: Path | None) -> Iterator[tuple[Path, _Note]]:
    """The notes of processes that are no more."""
    if path is None:
        return
    for file in sorted(path.parent.glob(f"{path.stem}{NOTE}*")):
        number = file.suffix.removeprefix(NOTE)
        if not number.isdigit() or _is_running(int(number)):
            continue
        with contextlib.suppress(OSError, ValueError, TypeError):
            yield file, _Note(**json.loads(file.read_text(encoding="utf-8")))


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    # Ended, but nobody has asked how: in a container that may stay so.
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def default_path() -> Path:
    """Where choices are kept: $XDG_CACHE_HOME/streamer/kernels.json."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "streamer" / "kernels.json"
