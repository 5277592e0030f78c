"""A file that remembers which backends were chosen, for which device, versions and shape.

A kernel that reads where it must not spoils the device for its whole process, and one that hangs is
killed with it; neither can be caught.  So what is being tried is noted beside the file while it is
tried, and later processes leave out what earlier ones did not survive.  A process that was ended
while it tried something proves little; one that has seen the device spoiled, or was seen to hang,
proves it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

NOTE = ".trying-"
"""Ends the name of a note, before the number of the process that wrote it, a dash, and a token:
in a container every start has nearly the same number."""
REFERENCE = "torch"
"""Always right, and there is nothing in its place: it is never held to be fatal."""
ENOUGH = 2
"""So many processes must have ended while they tried a backend."""

_own: set[str] = set()
"""The notes of tries that are under way in this process, by file name."""


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

    def begin(self, group: str, name: str) -> Path | None:
        """Note that this process is about to try a backend for a group of operations.

        result: the note, for `end`; None where nothing is kept.
        """
        note = self._write_note(_Note(self.key, group, name))
        if note is not None:
            _own.add(note.name)
        return note

    def end(self, note: Path | None) -> None:
        """The try is over, and this process goes on."""
        if note is not None:
            _own.discard(note.name)
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)

    def condemn(self, group: str, name: str) -> None:
        """This process has seen that it cannot go on after trying a backend."""
        self._write_note(_Note(self.key, group, name, is_sure=True))

    def acquit(self, group: str, name: str) -> None:
        """This process has found a backend right: others were ended by something else."""
        for file, note in self._against(group):
            if note.name == name and not note.is_sure:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)

    def fatal(self, group: str) -> dict[str, list[Path]]:
        """Backends that earlier processes did not survive trying, with the notes that say so.

        A process that ends meanwhile may have been ended by somebody: it takes two.
        """
        weights: Counter[str] = Counter()
        files: dict[str, list[Path]] = {}
        for file, note in self._against(group):
            weights[note.name] += ENOUGH if note.is_sure else 1
            files.setdefault(note.name, []).append(file)
        return {name: found for name, found in files.items() if weights[name] >= ENOUGH}

    def _against(self, group: str) -> Iterator[tuple[Path, _Note]]:
        for file, note in _notes(self.path):
            if (note.key, note.group) == (self.key, group):
                yield file, note

    def _write_note(self, note: _Note) -> Path | None:
        if self.path is None:
            return None
        file = self.path.with_suffix(f"{NOTE}{os.getpid()}-{secrets.token_hex(4)}")
        # Where nothing can be written, nothing is remembered; `keep` says so.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(asdict(note)), encoding="utf-8")
        return file

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


def condemn_hanging(path: Path, least_s: float = 0.0, most_s: float = math.inf) -> list[str]:
    """After processes crashed, or were killed because they hung: what they tried is fatal.

    path: the file of choices.  least_s, most_s: how long ago their tries were begun; others prove
        nothing.
    result: the backends' names, those that were known before left out.
    """
    found = []
    for file, note in _notes(path):
        with contextlib.suppress(OSError):
            is_meant = least_s <= time.time() - file.stat().st_mtime <= most_s
            if is_meant and not note.is_sure:
                file.write_text(json.dumps(asdict(note) | {"is_sure": True}), encoding="utf-8")
                found.append(note.name)
    return sorted(set(found))


def _notes(path: Path | None) -> Iterator[tuple[Path, _Note]]:
    """Notes that speak against a backend: sure ones, and those of processes that are no more."""
    if path is None:
        return
    for file in sorted(path.parent.glob(f"{path.stem}{NOTE}*")):
        number = file.suffix.removeprefix(NOTE).partition("-")[0]
        try:
            note = _Note(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        is_ours = number == str(os.getpid())
        is_under_way = file.name in _own if is_ours else _is_running(number)
        if note.name != REFERENCE and (note.is_sure or not is_under_way):
            yield file, note


def _is_running(number: str) -> bool:
    """Whether there is a process of that number; True where it is none."""
    if not number.isdigit():
        return True
    pid = int(number)
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
