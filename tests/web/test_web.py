"""The page's own tests and types: node's test runner and TypeScript's checker."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted((ROOT / "tests" / "web").glob("*.test.mjs"))
TYPESCRIPT = "typescript@7.0.2"


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{name} is missing; CI must have node")
    if path is None:
        pytest.skip(f"{name} is missing; install node to test the page's scripts")
    return path


def run(*command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def test_scripts_do_what_their_tests_say() -> None:
    assert TESTS
    done = run(tool("node"), "--test", *map(str, TESTS), timeout_s=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_keep_their_types() -> None:
    npx = tool("npx")
    done = run(npx, "--yes", "-p", TYPESCRIPT, "tsc", "-p", "web", timeout_s=150)
    could_not_fetch = done.returncode != 0 and "npm error" in done.stderr
    if could_not_fetch and not os.environ.get("CI"):
        pytest.skip("TypeScript could not be fetched; it is needed once")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("word", ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval("])
def test_text_reaches_the_page_as_text_only(word: str) -> None:
    scripts = sorted((ROOT / "web").glob("*.js"))
    assert scripts
    assert [path.name for path in scripts if word in path.read_text(encoding="utf-8")] == []


def test_the_page_fetches_nothing_from_elsewhere() -> None:
    for path in sorted((ROOT / "web").iterdir()):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path.name
        assert "https://" not in text, path.name
