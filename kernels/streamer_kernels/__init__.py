"""The operations that models are made of, each with a PyTorch reference: its specification.

`op.py` holds the contract and the reference; `op_triton.py` beside it holds the Triton kernel.
Models receive an `Ops` record and call through it; they never ask which backend it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from streamer_kernels.attend_views import ViewTable
    from streamer_kernels.quantise import Kind, RingScales


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
        scales: RingScales | None = None,
    ) -> Tensor:
        """Attend to the valid slots of a ring."""


class AttendViews(Protocol):
    """See `streamer_kernels.attend_views.attend_views`."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: ViewTable,
        q_sink: Tensor | None = None,
        lse: Tensor | None = None,
        scales: RingScales | None = None,
    ) -> Tensor:
        """Attend from runs of queries to their own spans of a ring."""


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


class QkNormRopeWrite(Protocol):
    """See `streamer_kernels.qk_norm_rope.qk_norm_rope_write`."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_weight: Tensor,
        k_weight: Tensor,
        table: Tensor,
        eps: float,
        ring_k: Tensor,
        ring_v: Tensor,
        slots: Tensor,
        sink_table: Tensor | None = None,
        scales: RingScales | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Normalise, rotate, write keys and values into a ring."""


class Modulate(Protocol):
    """See `streamer_kernels.modulate.modulate`."""

    def __call__(self, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        """Layer norm, scale and shift per frame."""


class GateAdd(Protocol):
    """See `streamer_kernels.gate_add.gate_add`."""

    def __call__(self, x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
        """Add a gated branch."""


class GateAddModulate(Protocol):
    """See `streamer_kernels.gate_add.gate_add_modulate`."""

    def __call__(
        self,
        x: Tensor,
        branch: Tensor,
        gate: Tensor | None,
        shift: Tensor,
        scale: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        """Add a gated branch, then layer norm, scale and shift."""


class GateAddLayerNorm(Protocol):
    """See `streamer_kernels.gate_add.gate_add_layer_norm`."""

    def __call__(
        self,
        x: Tensor,
        branch: Tensor,
        gate: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        """Add a gated branch, then layer norm with learned weights."""


class LinearGelu(Protocol):
    """See `streamer_kernels.gelu.linear_gelu`."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """A linear map and a GELU."""


class QuantiseRows(Protocol):
    """See `streamer_kernels.quantise`: `quantise_rows` and `gelu_quantise_rows`."""

    def __call__(self, x: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
        """Eight-bit numbers with one scale a row."""


class ToI420(Protocol):
    """See `streamer_kernels.i420.to_i420`."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """RGB pictures to the planes that encoders read."""


@dataclass(frozen=True)
class Ops:
    """One implementation of every operation."""

    attend: Attend
    attend_views: AttendViews
    rotate: Rotate
    qk_norm_rope: QkNormRope
    qk_norm_rope_write: QkNormRopeWrite
    modulate: Modulate
    gate_add: GateAdd
    gate_add_modulate: GateAddModulate
    gate_add_layer_norm: GateAddLayerNorm
    linear_gelu: LinearGelu
    quantise_rows: QuantiseRows
    gelu_quantise_rows: QuantiseRows
    to_i420: ToI420


Backend = Literal["torch", "triton", "compile"]


def load_ops(backend: Backend = "torch") -> Ops:
    """The operations of a backend.  On a GPU, `streamer_kernels.choose` picks among them.

    compile: the references through PyTorch's compiler, for benchmarks.
    Raises ImportError when the backend is not installed and ValueError when its name is unknown.
    """
    if backend == "torch":
        return _load_torch()
    if backend == "triton":
        return _load_triton()
    if backend == "compile":
        from streamer_kernels.compiled import compile_ops

        return compile_ops()
    raise ValueError(f"backend is {backend!r}, expected 'torch', 'triton' or 'compile'")


def _load_torch() -> Ops:
    from streamer_kernels.attend import attend
    from streamer_kernels.attend_views import attend_views
    from streamer_kernels.gate_add import gate_add, gate_add_layer_norm, gate_add_modulate
    from streamer_kernels.gelu import linear_gelu
    from streamer_kernels.i420 import to_i420
    from streamer_kernels.modulate import modulate
    from streamer_kernels.qk_norm_rope import qk_norm_rope, qk_norm_rope_write, rotate
    from streamer_kernels.quantise import gelu_quantise_rows, quantise_rows

    return Ops(
        attend=attend,
        attend_views=attend_views,
        rotate=rotate,
        qk_norm_rope=qk_norm_rope,
        qk_norm_rope_write=qk_norm_rope_write,
        modulate=modulate,
        gate_add=gate_add,
        gate_add_modulate=gate_add_modulate,
        gate_add_layer_norm=gate_add_layer_norm,
        linear_gelu=linear_gelu,
        quantise_rows=quantise_rows,
        gelu_quantise_rows=gelu_quantise_rows,
        to_i420=to_i420,
    )


def _load_triton() -> Ops:
    from streamer_kernels.attend_triton import attend, attend_views
    from streamer_kernels.gate_add_triton import gate_add, gate_add_layer_norm, gate_add_modulate
    from streamer_kernels.gelu_triton import linear_gelu
    from streamer_kernels.i420_triton import to_i420
    from streamer_kernels.modulate_triton import modulate
    from streamer_kernels.qk_norm_rope_triton import qk_norm_rope, qk_norm_rope_write, rotate
    from streamer_kernels.quantise_triton import gelu_quantise_rows, quantise_rows

    return Ops(
        attend=attend,
        attend_views=attend_views,
        rotate=rotate,
        qk_norm_rope=qk_norm_rope,
        qk_norm_rope_write=qk_norm_rope_write,
        modulate=modulate,
        gate_add=gate_add,
        gate_add_modulate=gate_add_modulate,
        gate_add_layer_norm=gate_add_layer_norm,
        linear_gelu=linear_gelu,
        quantise_rows=quantise_rows,
        gelu_quantise_rows=gelu_quantise_rows,
        to_i420=to_i420,
    )
