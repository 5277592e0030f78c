"""Where things lie: what ships with the package, and the folder of downloaded weights."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
MODELS = "models/"
"""Weights named `models/...` lie in the models folder, where `streamer models pull` puts them."""


def configs_dir() -> Path:
    """Where the shipped configurations are: beside the package, or inside an installed one."""
    installed = PACKAGE / "_configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def web_dir() -> Path:
    """Where the page is: beside the package, or inside an installed one."""
    installed = PACKAGE / "_web"
    return installed if installed.is_dir() else PACKAGE.parent / "web"


def models_dir() -> Path:
    """The folder of downloaded weights: $STREAMER_MODELS, or one in the user's cache."""
    chosen = os.environ.get("STREAMER_MODELS")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "streamer" / "models"


def weights_path(name: str) -> Path:
    """The file that a configuration means.

    `assets/...` ships with the package, `models/...` is below the models folder, others are paths.
    """
    if name.startswith("assets/"):
        return PACKAGE / name
    if name.startswith(MODELS):
        return models_dir() / name.removeprefix(MODELS)
    return Path(os.path.expanduser(name))
