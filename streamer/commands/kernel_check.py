"""Which kernels a model will run with, for `streamer doctor`."""

from __future__ import annotations

import json
from pathlib import Path

from streamer.commands.checks import Check
from streamer.config import Config


def check_kernels(
    config: Config, device_name: str | None = None, path: Path | None = None
) -> Check:
    """Who serves the operations: what was measured here before, or what will be.

    device_name: of the GPU; None asks for it.  path: the file of choices; None: the usual one.
    """
    if config.model is None:
        return Check("kernels", "ok", "none needed")
    device_name = _gpu() if device_name is None else device_name
    wanted = config.model.kernels
    if not device_name:
        if wanted == "triton":
            found = "model.kernels is 'triton', and there is no CUDA device"
            return Check("kernels", "fail", found, "set model.kernels to 'auto'")
        if wanted != "compile":
            return Check("kernels", "ok", "PyTorch's, as always on a processor")
    if wanted != "auto":
        return Check("kernels", "ok", f"{wanted}, as model.kernels says")
    from streamer_kernels.memory import default_path

    kept = _kept(path or default_path(), device_name, config.model.transformer.dtype)
    if not kept:
        return Check("kernels", "ok", "not measured yet; the first start does it, in seconds")
    by_backend: dict[str, list[str]] = {}
    for operations, backend in kept.items():
        by_backend.setdefault(backend, []).append(operations.replace("+", ", "))
    told = "; ".join(f"{backend}: {', '.join(names)}" for backend, names in by_backend.items())
    return Check("kernels", "ok", f"measured here before: {told}")


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


def _kept(path: Path, device_name: str, dtype: str) -> dict[str, str]:
    """Operations and their backends as chosen last for this device, PyTorch and element type."""
    import torch

    prefix = f"{device_name} torch-{torch.__version__} torch.{dtype} "
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        newest = [choices for key, choices in stored.items() if key.startswith(prefix)][-1]
        return {str(names): str(choice["name"]) for names, choice in newest.items()}
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        return {}
