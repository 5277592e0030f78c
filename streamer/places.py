"""Where things lie: what ships with the package, and the folder of downloaded weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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


def found_beside(tree: Any, folder: Path) -> Any:
    """A configuration's JSON tree with the weights that lie beside its file named by full paths.

    `transformer.safetensors`, or `parts/vae`, means what lies there in the folder of the file, so
    that the folder can be moved; a relative name that does not is left to the working directory.
    """
    if isinstance(tree, list):
        return [found_beside(part, folder) for part in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: _beside(part, folder) if key in _PLACES else found_beside(part, folder)
        for key, part in tree.items()
    }


_PLACES = ("weights", "tokenizer")
"""Keys of a configuration whose values are places."""


def _beside(name: Any, folder: Path) -> Any:
    if isinstance(name, list):
        return [_beside(part, folder) for part in name]
    if not isinstance(name, str) or not name or name.startswith(("assets/", MODELS, "/", "~")):
        return name
    path = (folder / name).resolve()
    return str(path) if path.exists() else name
