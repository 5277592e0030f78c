"""Fetch a model's files from the Hugging Face hub: at one revision, resumable, checked for room.

$HF_ENDPOINT names another hub, $HF_TOKEN the token for files behind a form, as with every tool of
the hub.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.commands.clearly import size_text
from streamer.config import Config, DownloadSection
from streamer.errors import ConfigError, DownloadError, OutputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

NOTE = ".revision"
"""File in a model's folder that holds the commit its files are of."""

DEFAULT_REVISION = "main"
SPARE_BYTES = 1_000_000_000
"""Room that is left on the disk in any case."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository at a commit.  size: bytes.  sha256: of large files, else empty."""

    repo: str
    commit: str
    name: str
    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Plan:
    """What one download section comes to: its files, and which of them are there already."""

    folder: Path
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def wanted(self) -> tuple[RemoteFile, ...]:
        """Files that are not there, or not whole."""
        return tuple(file for file in self.files if not _has(self.folder / file.name, file.size))


def pull(
    config: Config,
    models: Path,
    *,
    revision: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Fetch everything a configuration needs; returns the files, those already there included.

    models: the folder to put them below.  revision: instead of the pinned one, for all
    repositories.  say: told in one line what happens next.
    Raises ConfigError when the configuration names nothing to fetch, OutputError when there is not
    enough room, DownloadError with the reason when the hub does not give a file.
    """
    if config.source is None or not config.source.downloads:
        raise ConfigError(f"{config.name} names nothing to fetch; its weights ship with it")
    api = _api()
    plans = [_plan(api, each, models, revision) for each in config.source.downloads]
    wanted = sum(file.size for plan in plans for file in plan.wanted)
    _require_room(models, wanted)
    say(f"{config.source.page}  licence: {config.source.licence}")
    for plan in plans:
        for file in plan.files:
            if file in plan.wanted:
                say(f"{file.repo}@{plan.commit[:8]}  {file.name}  {size_text(file.size)}")
                _fetch(api, file, plan.folder)
        _note_revision(plan)
    return [plan.folder / file.name for plan in plans for file in plan.files]


def _api() -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ConfigError(
            "fetching models needs huggingface_hub: pip install 'streamer[wan]'"
        ) from error
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def _plan(api: HfApi, section: DownloadSection, models: Path, revision: str | None) -> Plan:
    from huggingface_hub.errors import HfHubHTTPError

    folder = models / section.folder
    wanted = revision or section.revision or _noted_revision(folder) or DEFAULT_REVISION
    try:
        about = api.model_info(section.repo, revision=wanted, files_metadata=True)
    except HfHubHTTPError as error:
        raise _refusal(section.repo, wanted, "", error) from error
    except _network_errors() as error:
        raise DownloadError(
            f"{api.endpoint} cannot be reached: {error}; check the network, or name a mirror in "
            "HF_ENDPOINT"
        ) from error
    commit = about.sha or wanted
    files = tuple(
        RemoteFile(
            section.repo,
            commit,
            each.rfilename,
            each.size or 0,
            each.lfs.sha256 if each.lfs else "",
        )
        for each in about.siblings or ()
        if any(fnmatch.fnmatch(each.rfilename, pattern) for pattern in section.include)
    )
    for pattern in section.include:
        if not any(fnmatch.fnmatch(file.name, pattern) for file in files):
            raise DownloadError(
                f"{section.repo}@{commit[:8]}: there is no {pattern} in it; the page may have "
                "changed, try another revision with --revision"
            )
    return Plan(folder, commit, files)


def _fetch(api: HfApi, file: RemoteFile, folder: Path) -> None:
    """Fetch one file, going on where an earlier try ended; checks its length and its hash.

    The hub's own `hf_hub_download` begins again after a process ended, which nobody wants of 28 GB;
    so the bytes are collected here, in a file that carries the commit in its name.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    target = folder / file.name
    part = target.with_name(f"{target.name}.{file.commit[:8]}.part")
    url = hf_hub_url(file.repo, file.name, revision=file.commit, endpoint=api.endpoint)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        done = part.stat().st_size
        if done > file.size:
            os.truncate(part, 0)
            done = 0
        if done < file.size:
            with part.open("r+b") as collected:
                collected.seek(done)
                http_get(
                    url,
                    collected,
                    resume_size=done,
                    headers=build_hf_headers(),
                    expected_size=file.size,
                )
        _require_whole(part, file)
        part.replace(target)
    except HfHubHTTPError as error:
        raise _refusal(file.repo, file.commit, file.name, error) from error
    except _network_errors() as error:
        raise DownloadError(
            f"{target}: {error or type(error).__name__}; run the command again, it goes on where "
            "it stopped"
        ) from error


def _require_whole(part: Path, file: RemoteFile) -> None:
    """Raise DownloadError, and drop what was collected, unless it is the hub's file."""
    size = part.stat().st_size
    if size != file.size:
        raise DownloadError(
            f"{part}: {size:,} bytes, the hub speaks of {file.size:,}; run the command again"
        )
    if not file.sha256:
        return
    with part.open("rb") as collected:
        found = hashlib.file_digest(collected, "sha256").hexdigest()
    if found != file.sha256:
        part.unlink()
        raise DownloadError(
            f"{part}: its SHA-256 is {found[:12]}..., the hub's is {file.sha256[:12]}...; what "
            "arrived is damaged and was dropped, run the command again"
        )


def _network_errors() -> tuple[type[Exception], ...]:
    """How a broken connection shows, by the library that this release of the hub's client uses."""
    found: list[type[Exception]] = [OSError]
    for name in ("httpx", "httpx2"):
        with contextlib.suppress(ImportError):
            found.append(importlib.import_module(name).TransportError)
    return tuple(found)


def _require_room(models: Path, wanted: int) -> None:
    if not wanted:
        return
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{models}: cannot be made: {error.strerror}") from error
    free = shutil.disk_usage(models).free
    if free < wanted + SPARE_BYTES:
        raise OutputError(
            f"{models}: {size_text(wanted)} are to be fetched and {size_text(free)} are free; make "
            "room, or choose another folder with STREAMER_MODELS"
        )


def _refusal(repo: str, revision: str, name: str, error: Exception) -> DownloadError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repo}@{revision[:8]}" + (f"/{name}" if name else "")
    if isinstance(error, GatedRepoError):
        return DownloadError(
            f"{where}: its page asks you to accept its terms first; do so in a browser, then set "
            "HF_TOKEN to your token"
        )
    if isinstance(error, RevisionNotFoundError):
        return DownloadError(f"{where}: there is no such revision; try --revision main")
    if isinstance(error, EntryNotFoundError):
        return DownloadError(f"{where}: there is no such file at this revision")
    if isinstance(error, RepositoryNotFoundError):
        return DownloadError(
            f"{where}: there is no such repository, or it is private and HF_TOKEN is not set"
        )
    return DownloadError(f"{where}: the hub answered: {str(error).splitlines()[0]}")


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _noted_revision(folder: Path) -> str:
    try:
        return (folder / NOTE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _note_revision(plan: Plan) -> None:
    (plan.folder / NOTE).write_text(f"{plan.commit}\n", encoding="utf-8")
