"""CaseFile: one recorded case of the reference implementations: its tensors and its sheet.

A case is a safetensors file.  The header field `case` holds the sheet as JSON: configuration, call
table, file name. Weights lie under their published key names; everything else starts with `io.`,
`call.` or `final.`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

TOLERANCE = 5e-5
_NOT_WEIGHTS = ("io.", "call.", "final.")


@dataclass(frozen=True)
class CaseFile:
    """One case: `tensors` by name, `sheet` as parsed JSON, `path` of the file it came from."""

    path: Path
    tensors: dict[str, Tensor]
    sheet: dict[str, Any]

    @property
    def name(self) -> str:
        """The file name without suffix, such as `b1_sf_rollout_global`."""
        return self.path.stem

    @property
    def kind(self) -> str:
        """What selects the runner: the name up to the first underscore, such as `b1` or `h`."""
        return self.name.split("_", 1)[0]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise KeyError(f"{self.path.name}: no tensor named {name!r}")
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def weights(self, prefix: str = "") -> dict[str, Tensor]:
        """The state dict: every tensor that is not an input, call or output, `prefix` removed."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix) and not name.startswith(_NOT_WEIGHTS)
        }


@dataclass(frozen=True)
class Difference:
    """The greatest absolute difference of one recorded tensor from what this project computes.

    tolerance: the greatest difference that passes; 0.0 demands equality (index tensors).
    """

    name: str
    value: float
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """False when too large, and when not a number."""
        return self.value <= self.tolerance


def load_case(path: Path) -> CaseFile:
    """Read a case file.  Raises ValueError when its header holds no sheet."""
    with safe_open(str(path), framework="pt") as file:
        header = file.metadata() or {}
        if "case" not in header:
            raise ValueError(f"{path}: the header has no field 'case'; is this a recorded case?")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return CaseFile(path=path, tensors=tensors, sheet=json.loads(header["case"]))


def compare(name: str, recorded: Tensor, ours: Tensor, tolerance: float = TOLERANCE) -> Difference:
    """Greatest absolute difference; infinite when the shapes differ or a value is not finite."""
    if recorded.shape != ours.shape:
        return Difference(f"{name} {tuple(recorded.shape)} != {tuple(ours.shape)}", torch.inf)
    gap = (recorded.double() - ours.double()).abs()
    value = float(gap.max()) if gap.numel() else 0.0
    return Difference(name, value if value == value else torch.inf, tolerance)
