"""Files of tensors, opened without reading them: safetensors, shards of it, and PyTorch's pickles.

Opening one costs its header.  Each tensor is read when it is asked for, from mapped memory, so that
a checkpoint larger than the memory can be looked into.  Pickles are opened with weights_only, which
executes nothing.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from streamer.errors import WeightsError

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
INDEX = ".safetensors.index.json"
MOST_NAMES = 4000
"""So many files and folders are looked at, a folder and those in it together: no model has more."""

MOST_FILES = 200
"""So many files of weights among them are opened."""

MAX_HEADER_BYTES = 100_000_000
"""The format's own bound on a safetensors header."""

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Entry:
    """A tensor that was not read yet.  file: where it lies, for messages."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def num_bytes(self) -> int:
        """How much memory they take as stored."""
        return self.numel * self.dtype.itemsize


class Tensors(Protocol):
    """Named tensors on disk.

    entries: what there is, by the name in the file; for a nested pickle, of the nest that was
    picked.  notes: strings of a safetensors header.  nests: networks that a pickle holds.
    """

    path: Path
    entries: dict[str, Entry]
    notes: dict[str, str]
    nests: tuple[str, ...]
    nest: str

    def read(self, name: str) -> Tensor:
        """One tensor, on the host; its memory may be the file's own, so it must not be changed."""


@dataclass
class SafetensorsFile:
    """One safetensors file."""

    path: Path
    entries: dict[str, Entry] = field(init=False)
    notes: dict[str, str] = field(init=False)
    nests: tuple[str, ...] = ()
    nest: str = ""

    def __post_init__(self) -> None:
        header = read_header(self.path)
        self.notes = header.pop("__metadata__", {})
        self.entries = {name: _entry(self.path, name, about) for name, about in header.items()}
        self._file: Any = None

    def read(self, name: str) -> Tensor:
        """One tensor, in mapped memory."""
        try:
            if self._file is None:
                self._file = safe_open(self.path, framework="pt")
            tensor: Tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"{self.path}: {name} cannot be read: {error}; the file is damaged, fetch it again"
            ) from error
        return tensor


@dataclass
class ShardedFile:
    """Several safetensors files that hold one network, with or without the index that lists them.

    Raises WeightsError when a shard of the index is missing, or two hold the same name.
    """

    path: Path
    shards: Sequence[SafetensorsFile]
    nests: tuple[str, ...] = ()
    nest: str = ""

    def __post_init__(self) -> None:
        self.notes: dict[str, str] = {}
        self.entries: dict[str, Entry] = {}
        self._owner: dict[str, SafetensorsFile] = {}
        for shard in self.shards:
            self.notes.update(shard.notes)
            for name, entry in shard.entries.items():
                if name in self._owner:
                    raise WeightsError(
                        f"{shard.path}: {name} is also in {self._owner[name].path}; "
                        "drop one of them"
                    )
                self.entries[name], self._owner[name] = entry, shard

    def read(self, name: str) -> Tensor:
        """One tensor, in mapped memory."""
        return self._owner[name].read(name)


@dataclass
class PickleFile:
    """A file of torch.save: a flat dictionary of tensors, or one with networks under keys.

    nest: which network; empty: the only or best one, by `prefer`.
    """

    path: Path
    nest: str = ""
    prefer: Sequence[str] = ()
    entries: dict[str, Entry] = field(init=False)
    notes: dict[str, str] = field(init=False, default_factory=dict)
    nests: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        tree = _unpickle(self.path)
        flat = {name: value for name, value in tree.items() if isinstance(value, Tensor)}
        nested = {
            name: {key: value for key, value in held.items() if isinstance(value, Tensor)}
            for name, held in tree.items()
            if isinstance(held, dict)
        }
        nested = {name: held for name, held in nested.items() if held}
        self.nests = tuple(nested)
        self._tensors = self._chosen(flat, nested)
        self.entries = {
            name: Entry(tuple(tensor.shape), tensor.dtype, self.path)
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str) -> Tensor:
        """One tensor, in mapped memory."""
        return self._tensors[name]

    def _chosen(
        self, flat: dict[str, Tensor], nested: dict[str, dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        if self.nest:
            if self.nest not in nested:
                raise WeightsError(
                    f"{self.path}: holds no network under {self.nest!r}; it holds "
                    f"{', '.join(nested) or 'a flat dictionary'}"
                )
            return nested[self.nest]
        for name in (*self.prefer, *nested):
            if name in nested and len(nested[name]) > len(flat):
                self.nest = name
                return nested[name]
        if not flat:
            raise WeightsError(
                f"{self.path}: holds no tensors; expected a dictionary of tensors, or one under "
                f"{' or '.join(map(repr, self.prefer)) or 'a key'}"
            )
        return flat


def open_tensors(path: Path, nest: str = "", prefer: Sequence[str] = ()) -> Tensors:
    """Open a file of tensors, whatever its name says, or the index of a sharded one.

    nest: the key of the wanted network in a pickle; prefer: keys to look for without one.
    Raises WeightsError that names the file and says what it is instead, or how it is damaged.
    """
    if path.name.endswith(INDEX):
        return _open_index(path)
    start = _start_of(path)
    if start[:4] == b"PK\x03\x04" or start[:2] in (b"\x80\x02", b"\x80\x04"):
        return PickleFile(path, nest, prefer)
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path}: is a Git LFS pointer, not the weights; run `git lfs pull` in its folder, or "
            "`streamer models pull`"
        )
    if start.lstrip()[:1] == b"<":
        raise WeightsError(
            f"{path}: is a web page, not weights; the download was answered by a login or an error "
            "page, fetch it again"
        )
    return SafetensorsFile(path)


def open_shards(paths: Sequence[Path], nest: str = "", prefer: Sequence[str] = ()) -> Tensors:
    """Open one file, as `open_tensors` does, or several safetensors files as one network."""
    if shard := _SHARD.search(paths[0].name):
        wanted = int(shard[2])
        there = {path.name for path in paths}
        for number in range(1, wanted + 1):
            name = f"{paths[0].name[: shard.start()]}-{number:05}-of-{wanted:05}.safetensors"
            if name not in there:
                raise WeightsError(
                    f"{paths[0].parent / name}: is not there, and it is one of {wanted} shards; "
                    "the download is not finished, run it again"
                )
    if len(paths) == 1:
        return open_tensors(paths[0], nest, prefer)
    return ShardedFile(paths[0].parent, [SafetensorsFile(path) for path in paths])


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: name -> dtype, shape, data_offsets; and __metadata__.

    Needs no torch at heart; it exists to say what is wrong where the library says 'invalid header'.
    Raises WeightsError when the file is none, or shorter than its header says.
    """
    size = path.stat().st_size if path.is_file() else 0
    start = _start_of(path)
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if len(start) < 9 or length > MAX_HEADER_BYTES or start[8:9] != b"{":
        raise WeightsError(
            f"{path}: damaged, or no weights file ({size} bytes); expected safetensors or a file "
            "of torch.save; fetch it again, or name another one"
        )
    if size < 8 + length:
        raise WeightsError(_cut_short(path, size, 8 + length))
    try:
        with path.open("rb") as file:
            file.seek(8)
            header: dict[str, Any] = json.loads(file.read(length))
        end = max(
            (about["data_offsets"][1] for name, about in header.items() if name != "__metadata__"),
            default=0,
        )
    except (ValueError, KeyError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: damaged: its header is no valid JSON: {error}") from error
    if size < 8 + length + end:
        raise WeightsError(_cut_short(path, size, 8 + length + end))
    return header


def weight_files(folder: Path) -> Iterator[list[Path]]:
    """The networks' files in a folder and the folders in it: shards together, others alone.

    Folders within the folder that may not be read are passed over.
    Raises WeightsError for a folder that cannot be read, or is no model's: it holds far too much.
    """
    for paths in _listed(folder):
        indexed: set[Path] = set()
        for index in [path for path in paths if path.name.endswith(INDEX)]:
            indexed |= {index.parent / name for name in _weight_map(index).values()}
            yield [index]
        numbered: dict[str, list[Path]] = {}
        for path in paths:
            if path.suffix not in SUFFIXES or not path.is_file() or path in indexed:
                continue
            if shard := _SHARD.search(path.name):
                numbered.setdefault(path.name[: shard.start()] + shard[2], []).append(path)
            else:
                yield [path]
        yield from numbered.values()


def _listed(folder: Path) -> list[list[Path]]:
    """What lies in a folder, and in each folder in it, in the order of names."""
    try:
        listed = [sorted(islice(folder.iterdir(), MOST_NAMES + 1))]
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be read: {error.strerror}") from error
    num_names = len(listed[0])
    for place in listed[0]:
        if place.name[0] == "." or num_names > MOST_NAMES:
            continue
        with contextlib.suppress(OSError):
            if place.is_dir():
                listed.append(sorted(islice(place.iterdir(), MOST_NAMES + 1)))
                num_names += len(listed[-1])
    num_files = sum(path.suffix in SUFFIXES for paths in listed for path in paths)
    for found, most, what in (
        (num_names, MOST_NAMES, "files and folders"),
        (num_files, MOST_FILES, "files of weights"),
    ):
        if found > most:
            raise WeightsError(
                f"{folder}: holds more than {most} {what}, with the folders in it; name the "
                "model's own folder, or a file"
            )
    return listed


def _open_index(path: Path) -> ShardedFile:
    wanted = _weight_map(path)
    shards: dict[str, SafetensorsFile] = {}
    for name in sorted(set(wanted.values())):
        shard = path.parent / name
        if not shard.is_file():
            raise WeightsError(
                f"{path}: names the shard {name}, which is not there; the download is not "
                "finished, run it again"
            )
        shards[name] = SafetensorsFile(shard)
    for tensor, name in wanted.items():
        if tensor not in shards[name].entries:
            raise WeightsError(
                f"{path}: puts {tensor} into {name}, which does not hold it; index and shards "
                "belong to different downloads"
            )
    return ShardedFile(path.parent, list(shards.values()))


def _weight_map(path: Path) -> dict[str, str]:
    try:
        weight_map: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: damaged, or no index of shards: {error}") from error
    return weight_map


def _entry(path: Path, name: str, about: Mapping[str, Any]) -> Entry:
    dtype = DTYPES.get(str(about.get("dtype")))
    if dtype is None:
        raise WeightsError(f"{path}: {name} has the number format {about.get('dtype')!r}, unknown")
    return Entry(tuple(int(n) for n in about["shape"]), dtype, path)


def _start_of(path: Path) -> bytes:
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such weights file")
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error


def _unpickle(path: Path) -> dict[str, Any]:
    """The dictionary in a file of torch.save; mapped where its format allows it."""
    try:
        with warnings.catch_warnings():
            # What follows such a warning is an error of its own, or nothing.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            tree = _load(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: holds more than tensors ({_refused(error)}), and code in weights is not "
            "run; save its state_dict alone, or take the safetensors form"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path}: damaged ({path.stat().st_size} bytes): {_first_line(error)}; most likely the "
            "download is not finished, fetch it again"
        ) from error
    if not isinstance(tree, dict):
        raise WeightsError(
            f"{path}: holds a {type(tree).__name__}, expected a dictionary of tensors"
        )
    return tree


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        # Files from before PyTorch 1.6 are no archives and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True)


def _refused(error: Exception) -> str:
    """The name of the object that the unpickler refused, if it says it."""
    text = str(error)
    _, _, after = text.partition("GLOBAL ")
    return after.split(" ", 1)[0] if after else _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _cut_short(path: Path, size: int, wanted: int) -> str:
    return (
        f"{path}: damaged: {size:,} bytes, but its header speaks of {wanted:,}; most likely the "
        "download is not finished, fetch it again"
    )
