"""Fetching models: from a stand-in of the hub, at one revision, resumed, checked for room."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamer.cli import main
from streamer.commands.pull import NOTE, pull
from streamer.config import Config, configs_dir, parse_config
from streamer.errors import ConfigError, DownloadError, OutputError
from tests.commands.hub import COMMIT, Hub, serve_hub

CONTENT = {
    "wan/base": {
        "Wan2.1_VAE.pth": b"vae" * 1000,
        "google/umt5-xxl/spiece.model": b"pieces" * 50,
        "google/umt5-xxl/tokenizer.json": b"{}",
        "diffusion_pytorch_model.safetensors": b"teacher" * 100,
    },
    "you/student": {"checkpoints/model.pt": bytes(range(256)) * 400, "README.md": b"text"},
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub() as made:
        made.files = {repo: dict(files) for repo, files in CONTENT.items()}
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield made


def config(revision: str = COMMIT, **changed: object) -> Config:
    tree = json.loads((configs_dir() / "wan2.1-t2v-1.3b-self-forcing.json").read_text())
    base = {"repo": "wan/base", "folder": "base", "bytes": 5000, "revision": revision}
    student = {"repo": "you/student", "folder": "student", "bytes": 102400, "revision": revision}
    tree["source"]["downloads"] = [
        base | {"include": ["Wan2.1_VAE.pth", "google/umt5-xxl/*"]},
        student | {"include": ["checkpoints/model.pt"]} | changed,
    ]
    return parse_config(tree, "test.json")


def test_the_wanted_files_arrive_and_no_others(hub: Hub, tmp_path: Path):
    files = pull(config(), tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in files} == {
        "base/Wan2.1_VAE.pth",
        "base/google/umt5-xxl/spiece.model",
        "base/google/umt5-xxl/tokenizer.json",
        "student/checkpoints/model.pt",
    }
    for path in files:
        repo = {"base": "wan/base", "student": "you/student"}[path.relative_to(tmp_path).parts[0]]
        name = str(path.relative_to(tmp_path / path.relative_to(tmp_path).parts[0]))
        assert path.read_bytes() == CONTENT[repo][name]
    assert not (tmp_path / "student" / "README.md").exists()


def test_what_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path):
    pull(config(), tmp_path)
    hub.fetched.clear()
    assert len(pull(config(), tmp_path)) == 4
    assert hub.fetched == []


def test_a_file_that_is_not_whole_is_fetched_again(hub: Hub, tmp_path: Path):
    pull(config(), tmp_path)
    damaged = tmp_path / "student" / "checkpoints" / "model.pt"
    damaged.write_bytes(b"short")
    hub.fetched.clear()
    pull(config(), tmp_path)
    assert damaged.read_bytes() == CONTENT["you/student"]["checkpoints/model.pt"]
    assert hub.fetched == ["checkpoints/model.pt"]


def test_a_download_that_failed_goes_on_where_it_stopped(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The connection breaks until the client gives up; the next call asks for the rest only."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 256)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.cuts = [512] + [0] * 100
    with pytest.raises(DownloadError, match="run the command again, it goes on where it stopped"):
        pull(config(), tmp_path)
    assert not (tmp_path / "base" / "Wan2.1_VAE.pth").exists()
    hub.cuts.clear()
    hub.ranges.clear()
    pull(config(), tmp_path)
    assert hub.ranges[0].startswith("bytes=512-")
    whole = tmp_path / "base" / "Wan2.1_VAE.pth"
    assert whole.read_bytes() == CONTENT["wan/base"]["Wan2.1_VAE.pth"]


def test_damaged_bytes_are_found_and_dropped(hub: Hub, tmp_path: Path):
    hub.is_corrupt = True
    with pytest.raises(DownloadError, match=r"its SHA-256 is .* damaged and was dropped"):
        pull(config(), tmp_path)
    assert not list(tmp_path.glob("**/*.p*"))
    hub.is_corrupt = False
    assert len(pull(config(), tmp_path)) == 4


def test_an_unpinned_revision_is_noted_and_kept(hub: Hub, tmp_path: Path):
    pull(config(revision=""), tmp_path)
    assert hub.revisions == ["main", "main"]
    assert (tmp_path / "student" / NOTE).read_text().strip() == COMMIT
    hub.revisions.clear()
    pull(config(revision=""), tmp_path)
    assert hub.revisions == [COMMIT, COMMIT]


def test_a_full_disk_is_found_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10**6))
    with pytest.raises(OutputError, match=r"106 kB are to be fetched and 1 MB are free; make room"):
        pull(config(), tmp_path)
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"repo": "you/gone"}, r"you/gone@01234567: there is no such repository, or it is private"),
        ({"revision": "f" * 40}, r"wan/base@ffffffff: there is no such revision"),
        ({"include": ["*.bin"]}, r"you/student@01234567: there is no \*\.bin in it"),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    hub: Hub, changed: dict[str, object], says: str, tmp_path: Path
):
    with pytest.raises(DownloadError, match=says):
        pull(config(**changed), tmp_path)


def test_terms_that_must_be_accepted_are_named(hub: Hub, tmp_path: Path):
    hub.gated.add("you/student")
    with pytest.raises(DownloadError, match=r"model\.pt: its page asks you to accept its terms"):
        pull(config(), tmp_path)


def test_a_hub_out_of_reach_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        pull(config(), tmp_path)


def test_a_model_that_ships_with_the_package_is_not_fetched(tmp_path: Path):
    result = CliRunner().invoke(main, ["models", "pull", "storybook", "--dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "names nothing to fetch" in result.output


def test_the_command_says_licence_revision_and_sizes(hub: Hub, tmp_path: Path):
    file = tmp_path / "test.json"
    file.write_text(config().model_dump_json())
    result = CliRunner().invoke(main, ["models", "pull", str(file), "--dir", str(tmp_path / "m")])
    assert result.exit_code == 0, result.output
    assert "licence: Apache-2.0" in result.output
    assert "you/student@01234567  checkpoints/model.pt  102 kB" in result.output
    assert "4 files in" in result.output


def test_a_configuration_without_a_source_is_refused(tmp_path: Path):
    bare = config().model_copy(update={"source": None})
    with pytest.raises(ConfigError, match="names nothing to fetch"):
        pull(bare, tmp_path)
