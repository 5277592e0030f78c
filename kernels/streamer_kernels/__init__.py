"""The operations that models are made of, each with a PyTorch reference: its specification.

`op.py` holds the contract and the reference; `op_triton.py` beside it holds the Triton kernel.
Models receive an `Ops` record and call through it; they never ask which backend it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Attend(Protocol):
    """See `streamer_kernels.attend.attend`."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        num_valid: int,
        q_sink: Tensor | None = None,
        num_sink: int = 0,
    ) -> Tensor:
        """Attend to the valid slots of a ring."""


class Rotate(Protocol):
    """See `streamer_kernels.qk_norm_rope.rotate`."""

    def __call__(self, x: Tensor, table: Tensor) -> Tensor:
        """Turn channel pairs by the angles of a table."""


class QkNormRope(Protocol):
    """See `streamer_kernels.qk_norm_rope.qk_norm_rope`."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        q_weight: Tensor,
        k_weight: Tensor,
        table: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        """Normalise queries and keys and rotate them."""


class Modulate(Protocol):
    """See `streamer_kernels.modulate.modulate`."""

    def __call__(self, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        """Layer norm, scale and shift per frame."""


class GateAdd(Protocol):
    """See `streamer_kernels.gate_add.gate_add`."""

    def __call__(self, x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
        """Add a gated branch."""


@dataclass(frozen=True)
class Ops:
    """One implementation of every operation."""

    attend: Attend
    rotate: Rotate
    qk_norm_rope: QkNormRope
    modulate: Modulate
    gate_add: GateAdd


Backend = Literal["torch", "triton"]


def load_ops(backend: Backend = "torch") -> Ops:
    """The operations of a backend; where it has no kernel of its own, the reference stands in.

    Raises ImportError when the backend is not installed and ValueError when its name is unknown.
    """
    from streamer_kernels.attend import attend
    from streamer_kernels.gate_add import gate_add
    from streamer_kernels.modulate import modulate
    from streamer_kernels.qk_norm_rope import qk_norm_rope, rotate

    ops = Ops(attend, rotate, qk_norm_rope, modulate, gate_add)
    if backend == "torch":
        return ops
    if backend == "triton":
        from streamer_kernels import attend_triton

        return replace(ops, attend=attend_triton.attend)
    raise ValueError(f"backend is {backend!r}, expected 'torch' or 'triton'")
