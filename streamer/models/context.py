"""AttentionContext and its kinds: what the tokens of a pass may look at, and where they stand.

The transformer does not know that it is streaming.  It asks the context for the rotary table of the
pass and gives it rotated queries, rotated keys and values, layer by layer.  Keys are stored rotated
at their true position.  The distance to the sinks would grow for ever, so sinks are seen just
before the window: serving rotates the query back by the number of evicted frames, against the sinks
only, and moves no key; training, which gathers its keys anyway, rotates the sinks forward.
`absolute_positions` switches that off: the published behaviour of Self-Forcing and CausVid.

Serving has a kind of its own, `rolling.RollingContext`.  RollingContext = BlockCausalContext =
UnrolledContext, to rounding: tests/models/test_context.py is the specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from streamer_kernels import Ops, load_ops
from streamer_kernels.quantise import RingScales
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.rotary import sent, shift_table, table_dtype, token_table


class AttentionContext(Protocol):
    """What the tokens of one forward pass may look at."""

    def rotary(self, num_frames: int, rows: int, columns: int, q: Tensor) -> Tensor:
        """The rotary table of this pass: [N, D/2, 2], at least float32.

        q: [B, N, A, D], of which only device, dtype and D matter.

        Raises ValueError when the pass is not the one that the context was prepared for.
        """

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q to this context.  q, k (rotated), v, result: [B, N, A, D]."""

    def snapshot(self) -> AttentionContext:
        """This context as the current pass sees it, for layers that run again in backward."""


class StreamingContext(AttentionContext, Protocol):
    """A context that lives through many blocks."""

    def begin(self, num_frames: int | None = None) -> None:
        """Reserve room for the next block; `attend` may then run any number of times."""

    def commit(self) -> None:
        """Make the block history: what the last pass wrote is what later blocks see."""


class Place(NamedTuple):
    """Where one layer's keys and values of the open block belong.

    ring_k, ring_v: [B, S, A, D], to be written in place.  slots: int64 [N], on the device.
    sink_table: [N or 1, D/2, 2], turns the queries a second time, for the sinks; None: not needed.
    scales: of a ring that holds codes.
    """

    ring_k: Tensor
    ring_v: Tensor
    slots: Tensor
    sink_table: Tensor | None
    scales: RingScales | None = None


@runtime_checkable
class RingContext(AttentionContext, Protocol):
    """A context that lets the caller write keys and values where they stay.

    `place`, a write and `attend_written` together are `attend`, with one pass over memory less.
    """

    def place(self, layer: int) -> Place:
        """Where the keys and values of this pass belong."""

    def attend_written(self, layer: int, q: Tensor, q_sink: Tensor) -> Tensor:
        """Attend after the write.  q, result: [B, N, A, D].  q_sink: q turned for the sinks."""


def torch_ops() -> Ops:
    """The references."""
    return load_ops("torch")


def _to_device(table: Tensor, q: Tensor) -> Tensor:
    return sent(table, q.device, table_dtype(q.dtype))


@dataclass
class FullContext:
    """Everything in the pass sees everything: bidirectional teacher and critic.

    Holds no state between passes.

    valid_frames: how many leading frames of each sample are real; keys of the others are not seen.
        None: all.
    """

    valid_frames: Sequence[int] | None = None
    ops: Ops = field(default_factory=torch_ops)
    _table: Tensor | None = field(default=None, init=False, repr=False)
    _frames: int = field(default=0, init=False, repr=False)
    _key: tuple[object, ...] = field(default=(), init=False, repr=False)

    def rotary(self, num_frames: int, rows: int, columns: int, q: Tensor) -> Tensor:
        """Positions 0, 1, ...; see AttentionContext."""
        key = (num_frames, rows, columns, q.shape[-1], q.device, q.dtype)
        if self._table is None or self._key != key:
            self._table = _to_device(token_table(range(num_frames), rows, columns, q.shape[-1]), q)
            self._frames, self._key = num_frames, key
        return self._table

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionContext."""
        if self.valid_frames is None:
            return self.ops.attend(q, k, v, k.shape[1])
        tokens = k.shape[1] // self._frames
        return torch.cat(
            [
                self.ops.attend(q[i : i + 1], k[i : i + 1], v[i : i + 1], frames * tokens)
                for i, frames in enumerate(self.valid_frames)
            ]
        )

    def snapshot(self) -> AttentionContext:
        """Itself: nothing in it changes; see AttentionContext."""
        return self


@dataclass
class BlockCausalContext:
    """A whole clip in one pass; every block sees itself and what a stream would still hold.

    Training.

    blocks: latent frames of each block, in order.
    layout: window and sinks, as in serving.  Its own block size is not used.
    teacher_forcing: the pass is [clean frames | noisy frames], both of the same clip and positions.
        A clean block sees the clean blocks up to itself; a noisy block sees the clean blocks before
        it, and itself.

    Differentiable.  Blocks attend one after the other to just the frames they see, instead of to
    all frames under a mask: with a window this is several times less work and memory.
    """

    blocks: Sequence[int]
    layout: RingLayout
    teacher_forcing: bool = False
    absolute_positions: bool = False
    ops: Ops = field(default_factory=torch_ops)
    _table: Tensor | None = field(default=None, init=False, repr=False)
    _grid: tuple[int, int] = field(default=(0, 0), init=False, repr=False)
    _shifts: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        first = 0
        for count in self.blocks:
            self.layout.check_block(first, count)
            first += count
        if self.layout.window is None and first > self.layout.num_slots:
            raise ValueError(f"a clip of {first} frames does not fit {self.layout.num_slots} slots")

    @property
    def num_frames(self) -> int:
        """Latent frames of the clip (the pass has twice as many under teacher forcing)."""
        return sum(self.blocks)

    def seen_by_block(self, index: int, noisy: bool = False) -> list[int]:
        """Which frames of the pass a block sees; under teacher forcing, noisy follow clean ones."""
        first = sum(self.blocks[:index])
        end = first + self.blocks[index]
        seen = self.layout.visible(end)
        if not noisy:
            return seen
        return [frame if frame < first else frame + self.num_frames for frame in seen]

    def rotary(self, num_frames: int, rows: int, columns: int, q: Tensor) -> Tensor:
        """Clean and noisy copies of a frame have the same position; see AttentionContext."""
        expected = self.num_frames * (2 if self.teacher_forcing else 1)
        if num_frames != expected:
            raise ValueError(
                f"the pass has {num_frames} frames, the context was made for {expected}"
            )
        if self._table is None or self._grid != (rows, columns):
            frames = [frame % self.num_frames for frame in range(num_frames)]
            self._table = _to_device(token_table(frames, rows, columns, q.shape[-1]), q)
            self._grid = (rows, columns)
            self._shifts.clear()
        return self._table

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionContext."""
        tokens = self._grid[0] * self._grid[1]
        keys, values = torch.split(k, tokens, dim=1), torch.split(v, tokens, dim=1)
        copies = (False, True) if self.teacher_forcing else (False,)
        queries = torch.split(q, [count * tokens for _ in copies for count in self.blocks], dim=1)
        results = []
        for i, query in enumerate(queries):
            index = i % len(self.blocks)
            seen = self.seen_by_block(index, noisy=i >= len(self.blocks))
            block_k = [keys[frame] for frame in seen]
            shift = self._shift(index, q)
            if shift is not None:
                sinks = torch.cat(block_k[: self.layout.sink], dim=1)
                block_k[: self.layout.sink] = [self.ops.rotate(sinks, shift)]
            block_v = torch.cat([values[frame] for frame in seen], dim=1)
            results.append(
                self.ops.attend(query, torch.cat(block_k, dim=1), block_v, block_v.shape[1])
            )
        return torch.cat(results, dim=1)

    def snapshot(self) -> AttentionContext:
        """Itself: nothing in it changes; see AttentionContext."""
        return self

    def _shift(self, index: int, q: Tensor) -> Tensor | None:
        gone = self.layout.evicted(sum(self.blocks[: index + 1]))
        if gone == 0 or self.layout.sink == 0 or self.absolute_positions:
            return None
        if gone not in self._shifts:
            self._shifts[gone] = _to_device(shift_table(gone, q.shape[-1]), q)
        return self._shifts[gone]


@dataclass
class UnrolledContext:
    """A rollout with gradients: earlier blocks detached, the current block differentiable.

    One per training rollout, in the trainer's process.  Nothing is written in place, so a pass can
    be differentiated after later passes of the same block; a checkpointed layer may run twice.
    Gradients never reach earlier blocks.
    """

    num_layers: int
    layout: RingLayout
    absolute_positions: bool = False
    ops: Ops = field(default_factory=torch_ops)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all blocks."""
        self._first, self._count = 0, 0
        self._held: list[int] = []
        self._tokens = 0
        self._history: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(self.num_layers)]
        self._current: list[tuple[Tensor, Tensor] | None] = [None] * self.num_layers
        self._table: Tensor | None = None
        self._shift: Tensor | None = None

    def begin(self, num_frames: int | None = None) -> None:
        """Open the next block and drop what the window no longer holds; see StreamingContext."""
        count = num_frames or self.layout.block
        self.layout.slots(self._first, count)
        self._count = count
        self._table = self._shift = None
        visible = set(self.layout.visible(self._first + count))
        kept = [i for i, frame in enumerate(self._held) if frame in visible]
        if len(kept) < len(self._held):
            self._history = [[frames[i] for i in kept] for frames in self._history]
            self._held = [self._held[i] for i in kept]

    def rotary(self, num_frames: int, rows: int, columns: int, q: Tensor) -> Tensor:
        """True positions of the current block; see AttentionContext."""
        if num_frames != self._count:
            raise ValueError(f"the pass has {num_frames} frames, begin() opened {self._count}")
        self._current = [None] * self.num_layers
        if self._table is None:
            frames = range(self._first, self._first + self._count)
            self._table = _to_device(token_table(frames, rows, columns, q.shape[-1]), q)
            self._tokens = rows * columns
            gone = self.layout.evicted(self._first + self._count)
            if gone > 0 and self.layout.sink > 0 and not self.absolute_positions:
                self._shift = _to_device(shift_table(gone, q.shape[-1]), q)
        return self._table

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionContext."""
        self._current[layer] = (k.detach(), v.detach())
        history = self._history[layer]
        if history:
            k = torch.cat([*self._appearing([key for key, _ in history]), k], dim=1)
            v = torch.cat([*(value for _, value in history), v], dim=1)
        return self.ops.attend(q, k, v, k.shape[1])

    def snapshot(self) -> AttentionContext:
        """A copy that later blocks do not change; both write the keys of this pass.

        It shares the keys and values of earlier frames, which are many in a long rollout.
        """
        frozen = copy(self)
        frozen._history = list(self._history)
        return frozen

    def _appearing(self, keys: list[Tensor]) -> list[Tensor]:
        """Earlier keys, frame by frame, at the place in time where the current block sees them."""
        if self._shift is None:
            return keys
        sinks = torch.cat(keys[: self.layout.sink], dim=1)
        return [self.ops.rotate(sinks, self._shift), *keys[self.layout.sink :]]

    def commit(self) -> None:
        """Append the keys and values of the last pass to the history; see StreamingContext."""
        for layer, current in enumerate(self._current):
            if current is None:
                raise RuntimeError(f"commit() before a pass: layer {layer} has no keys")
            keys, values = (torch.split(tensor, self._tokens, dim=1) for tensor in current)
            new = list(zip(keys, values, strict=True))
            self._history[layer] = [*self._history[layer], *new]
        self._current = [None] * self.num_layers
        self._held += range(self._first, self._first + self._count)
        self._first += self._count
        self._count = 0
