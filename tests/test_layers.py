"""Imports go downwards only, and the event loop's side never loads torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS: tuple[tuple[str, ...], ...] = (
    ("streamer", "streamer.errors", "streamer.clearly", "streamer.places", "streamer_kernels"),
    (
        *("streamer.stream", "streamer.pacing", "streamer.governor"),
        *("streamer.models.cache", "streamer.lightx2v"),
    ),
    ("streamer.config", "streamer.model_path", "streamer.server.protocol"),
    ("streamer.changes",),
    ("streamer.driver", "streamer.metrics", "streamer.pictures"),
    ("streamer.models",),
    ("streamer.engine", "streamer.distill"),
    ("streamer.delivery", "streamer.offline", "streamer.bench"),
    ("streamer.bench_delivery", "streamer.bench_viewers"),
    ("streamer.live",),
    ("streamer.server",),
    ("streamer.bench.latency",),
    ("streamer.commands",),
    ("streamer.cli", "streamer.__main__"),
)
"""From the bottom.  A module belongs to the longest name here that it starts with, and may import
what is in its own layer or below."""

LOOP_SIDE = (
    "streamer.errors",
    "streamer.places",
    "streamer.lightx2v",
    "streamer.stream",
    "streamer.config",
    "streamer.model_path",
    "streamer.driver",
    "streamer.changes",
    "streamer.pacing",
    "streamer.governor",
    "streamer.metrics",
    "streamer.pictures",
    "streamer.engine.handle",
    "streamer.delivery",
    "streamer.offline",
    "streamer.bench",
    "streamer.live",
    "streamer.server",
    "streamer.cli",
)
"""Modules that must not import torch, at whatever depth of their syntax tree."""


def sources() -> dict[str, Path]:
    """Every module of ours by its name."""
    found = {}
    for base, package in ((ROOT, "streamer"), (ROOT / "kernels", "streamer_kernels")):
        for path in sorted((base / package).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer(module: str) -> int:
    """The layer of a module, counted from the bottom; -1 for those that are not ours."""
    matches = [
        (len(name), index)
        for index, names in enumerate(LAYERS)
        for name in names
        if is_in(module, name)
    ]
    longest, index = max(matches, default=(0, -1))
    if longest == len("streamer") and module.count(".") and module.split(".")[1] in NAMES:
        raise AssertionError(f"{module} is in no layer; place it in LAYERS")
    return index


NAMES = {name.split(".")[1] for name in sources() if name.count(".")}


@pytest.mark.parametrize("module", sources())
def test_a_module_imports_downwards_only(module: str) -> None:
    own = layer(module)
    upward = [each for each in imports(sources()[module]) if layer(each) > own]
    assert not upward, f"{module} (layer {own}) imports upwards: {upward}"


@pytest.mark.parametrize("module", [m for m in sources() if any(is_in(m, s) for s in LOOP_SIDE)])
def test_the_event_loops_side_does_not_import_torch(module: str) -> None:
    assert not [each for each in imports(sources()[module]) if is_in(each, "torch")]


def test_models_know_nothing_of_the_event_loop() -> None:
    for module, path in sources().items():
        if is_in(module, "streamer.models"):
            assert not [each for each in imports(path) if is_in(each, "asyncio")], module


@pytest.mark.parametrize("module", ["streamer.server.run", "streamer.live", "streamer.cli"])
def test_loading_the_server_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
