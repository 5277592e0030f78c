"""AttentionContext and its kinds: what the tokens of a pass may look at, and where they stand.

The transformer does not know that it is streaming.  It asks the context for the rotary table of the
pass and gives it rotated queries, rotated keys and values, layer by layer.  Keys are stored rotated
at their true position.  The distance to the sinks would grow for ever, so sinks are seen just
before the window: serving rotates the query back by the number of evicted frames, against the sinks
only, and moves no key; training, which gathers its keys anyway, rotates the sinks forward.
`absolute_positions` switches that off: the published behaviour of Self-Forcing and CausVid.

RollingContext = BlockCausalContext = UnrolledContext, to rounding: tests/models/test_context.py is
the specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from streamer_kernels import Ops, load_ops
from streamer_kernels.attend_views import SeenFrame, View, ViewTable, view_frames
from streamer_kernels.quantise import Kind, RingScales
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.ring import CacheShape as CacheShape
from streamer.models.ring import Ring
from streamer.models.rotary import shift_table, space_phases, table_dtype, time_phases, token_table


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


class Fill(NamedTuple):
    """All that a pass over the open block takes from the host: two passes of the same fill launch
    the same work on the same addresses.

    num_frames, num_ahead: of the block, and of the one behind it in the same pass.  num_seen:
    frames that a single block sees; what two see is told to the device.  is_shifted: whether sinks
    get queries of their own.
    """

    num_frames: int
    num_ahead: int
    num_seen: int
    is_shifted: bool


@runtime_checkable
class RingContext(AttentionContext, Protocol):
    """A context that lets the caller write keys and values where they stay.

    `place`, a write and `attend_written` together are `attend`, with one pass over memory less.
    """

    def place(self, layer: int) -> Place:
        """Where the keys and values of this pass belong."""

    def attend_written(self, layer: int, q: Tensor, q_sink: Tensor) -> Tensor:
        """Attend after the write.  q, result: [B, N, A, D].  q_sink: q turned for the sinks."""


def _torch_ops() -> Ops:
    return load_ops("torch")


def _to_device(table: Tensor, q: Tensor) -> Tensor:
    return _sent(table, q.device, table_dtype(q.dtype))


def _sent(numbers: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Numbers of the host on a device; from pinned memory, so that the host need not wait."""
    numbers = numbers.to(dtype)
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=device.type == "cuda")


@dataclass
class FullContext:
    """Everything in the pass sees everything: bidirectional teacher and critic.

    Holds no state between passes.

    valid_frames: how many leading frames of each sample are real; keys of the others are not seen.
        None: all.
    """

    valid_frames: Sequence[int] | None = None
    ops: Ops = field(default_factory=_torch_ops)
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
    ops: Ops = field(default_factory=_torch_ops)
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
    ops: Ops = field(default_factory=_torch_ops)

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


class RollingContext:
    """Ring and sinks, written in place at fixed addresses: serving.

    One per stream, in the worker process, as long as the stream is not parked.  Positions are host
    integers; `begin` copies slots and angles to the device once per block.  Nothing is ever read
    back from the device, no key moves, and no pass knows whether it is the first.  No gradients.

    With `begin_pair` one pass goes over two blocks: it makes the first one history, and takes the
    first step of the second one, which sees what the first has just written.  The keys of the
    second lie behind the ring meanwhile, since the first still sees the frames that they will
    replace; later steps write them where they belong.

    first_frame: the position of the stream's first frame in time.
    spare_frames: room behind the ring for that second block.
    kind: of the codes that keys and values are held as; None holds them as they are.
    """

    def __init__(
        self,
        shape: CacheShape,
        layout: RingLayout,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        absolute_positions: bool = False,
        first_frame: int = 0,
        spare_frames: int = 0,
        kind: Kind | None = None,
        ops: Ops | None = None,
    ) -> None:
        self.shape = shape
        self.layout = layout
        self.absolute_positions = absolute_positions
        self.spare_frames = spare_frames
        self.ops = ops or _torch_ops()
        tokens, width = shape.tokens_per_frame, shape.head_width
        num_frames = layout.num_slots + spare_frames
        self.ring = Ring(shape, num_frames, device, dtype, kind)
        precise = table_dtype(dtype)
        self._slots = torch.zeros(num_frames * tokens, device=device, dtype=torch.int64)
        self._space = space_phases(shape.rows, shape.columns, width).to(device, precise)
        self._table = torch.zeros(num_frames, tokens, width // 2, 2, device=device, dtype=precise)
        self._table[:, :, -self._space.shape[1] :] = self._space
        self._shift = shift_table(0, width).to(device, precise)
        self._shifts = self._shift.repeat(2 * spare_frames * tokens, 1, 1)
        self._tables: dict[tuple[int, bool], ViewTable] = {}
        self.reset(first_frame)

    @property
    def k(self) -> Tensor:
        """Keys of all layers, or their codes: [L, B, S, A, D]."""
        return self.ring.k

    @property
    def v(self) -> Tensor:
        """Values of all layers, or their codes: [L, B, S, A, D]."""
        return self.ring.v

    def reset(self, first_frame: int = 0) -> None:
        """Forget all blocks; the next one starts at `first_frame`.  The memory stays."""
        self._origin = first_frame
        self._first = 0
        self._count = self._ahead = 0
        self._is_shifted = False

    @property
    def num_frames(self) -> int:
        """How many frames have been committed since the last reset."""
        return self._first

    @property
    def next_position(self) -> int:
        """The position in time of the next block's first frame."""
        return self._origin + self._first

    def reopen(self, num_frames: int) -> None:
        """Take back the newest frames, sinks excepted, so that they can be written again.

        Raises ValueError when the ring does not hold as many.
        """
        held = self.layout.num_slots - self.layout.sink
        if not 0 < num_frames <= min(held, self._first - self.layout.sink):
            raise ValueError(
                f"{num_frames} frames cannot be taken back; beside {self.layout.sink} sinks the "
                f"ring holds {min(held, self._first - self.layout.sink)}"
            )
        self._first -= num_frames
        self._count = self._ahead = 0

    def begin(self, num_frames: int | None = None) -> None:
        """Reserve the slots of the next block: host arithmetic and three small copies."""
        count = num_frames or self.layout.block
        self._open(count, self.layout.slots(self._first, count), 0)
        gone = self.layout.evicted(self._first + count)
        self._shift.copy_(self._sent(shift_table(-gone, self.shape.head_width)))
        self._is_shifted = gone > 0 and self._moves_sinks

    def begin_pair(self, num_frames: int | None = None) -> None:
        """Open the next block, and the one after it for one pass: [this block | the next].

        Both have as many frames.  `commit` then makes the first one history.
        Raises ValueError when there is no room for the second.
        """
        count = num_frames or self.layout.block
        if count > self.spare_frames:
            raise ValueError(
                f"a second block of {count} frames does not fit {self.spare_frames} spare frames"
            )
        tokens, width = self.shape.tokens_per_frame, self.shape.head_width
        behind = range(self.layout.num_slots, self.layout.num_slots + count)
        self._open(count, [*self.layout.slots(self._first, count), *behind], count)
        ends = self._first + count, self._first + 2 * count
        gone = [self.layout.evicted(end) for end in ends]
        self._is_shifted = gone[1] > 0 and self._moves_sinks
        for half, frames in enumerate(gone):
            rows = slice(half * count * tokens, (half + 1) * count * tokens)
            self._shifts[rows] = self._sent(shift_table(-frames, width))
        views = [self._view(count, self.layout.visible(ends[0]))]
        later = self.layout.visible(ends[1])
        views.append(self._view(count, [f for f in later if f < ends[0]], behind))
        key = count, self._is_shifted
        if key in self._tables:
            self._tables[key].update(views)
        else:
            self._tables[key] = ViewTable(views, self._slots.device)

    def _open(self, count: int, frames: Sequence[int], ahead: int) -> None:
        """Reserve places, counted in frames, for the next block and the one ahead."""
        tokens, width = self.shape.tokens_per_frame, self.shape.head_width
        places = torch.tensor(frames, dtype=torch.int64)[:, None] * tokens + torch.arange(tokens)
        self._count, self._ahead = count, ahead
        self._slots[: places.numel()].copy_(
            _sent(places.flatten(), self._slots.device, torch.int64)
        )
        start = self._origin + self._first
        time = self._sent(time_phases(range(start, start + len(frames)), width))
        self._table[: len(frames), :, : time.shape[1]] = time[:, None]

    def _sent(self, table: Tensor) -> Tensor:
        return _sent(table, self._table.device, self._table.dtype)

    def _view(self, count: int, frames: Sequence[int], behind: Sequence[int] = ()) -> View:
        """What the tokens of `count` frames see: frames by number, and places behind the ring."""
        tokens, sinks = self.shape.tokens_per_frame, self.layout.sink if self._is_shifted else 0
        seen = [SeenFrame(self.layout.slot(frame), frame < sinks) for frame in frames]
        return view_frames(count * tokens, [*seen, *map(SeenFrame, behind)], tokens)

    @property
    def _moves_sinks(self) -> bool:
        return self.layout.sink > 0 and not self.absolute_positions

    def rotary(self, num_frames: int, rows: int, columns: int, q: Tensor) -> Tensor:
        """True positions of the current block, without limit; see AttentionContext."""
        if num_frames != self._count + self._ahead:
            raise ValueError(
                f"the pass has {num_frames} frames, begin() reserved {self._count + self._ahead}"
            )
        if (rows, columns) != (self.shape.rows, self.shape.columns):
            raise ValueError(
                f"the pass has {rows}x{columns} tokens per frame, the cache was made for "
                f"{self.shape.rows}x{self.shape.columns}"
            )
        return self._table[:num_frames].flatten(0, 1)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write k and v into the reserved slots, then attend to all valid ones."""
        if k.requires_grad:
            raise RuntimeError("RollingContext cuts gradients; train with UnrolledContext instead")
        place = self.place(layer)
        self.ring.write(layer, place.slots, k, v)
        q_sink = q if place.sink_table is None else self.ops.rotate(q, place.sink_table)
        return self.attend_written(layer, q, q_sink)

    def place(self, layer: int) -> Place:
        """The reserved slots of one layer; see RingContext."""
        num_tokens = (self._count + self._ahead) * self.shape.tokens_per_frame
        shift = self._shifts[:num_tokens] if self._ahead else self._shift
        return Place(
            self.k[layer],
            self.v[layer],
            self._slots[:num_tokens],
            shift if self._is_shifted else None,
            self.ring.scales(layer),
        )

    def attend_written(self, layer: int, q: Tensor, q_sink: Tensor) -> Tensor:
        """Attend to all valid slots of a layer; see RingContext."""
        ring = self.k[layer], self.v[layer]
        tokens, scales = self.shape.tokens_per_frame, self.ring.scales(layer)
        sinks = q_sink if self._is_shifted else None
        if self._ahead:
            table = self._tables[self._count, self._is_shifted]
            return self.ops.attend_views(q, *ring, table, sinks, None, scales)
        num_sink = self.layout.sink * tokens if self._is_shifted else 0
        return self.ops.attend(q, *ring, self._num_valid * tokens, sinks, num_sink, scales)

    @property
    def _num_valid(self) -> int:
        """Frames of the ring that the open block sees, its own included."""
        return min(self._first + self._count, self.layout.num_slots)

    @property
    def fill(self) -> Fill:
        """What the open pass takes from the host."""
        if not self._ahead:
            return Fill(self._count, 0, self._num_valid, self._is_shifted)
        return Fill(self._count, self._ahead, 0, self._is_shifted)

    @property
    def is_replayable(self) -> bool:
        """Whether the open pass may be recorded.  Not when the attention takes the views of two
        blocks from the host, as those of libraries do: they move with every block.
        """
        return not self._ahead or not self._tables[self._count, self._is_shifted].is_host_read

    def snapshot(self) -> AttentionContext:
        """Itself: there is no backward pass; see AttentionContext."""
        return self

    def commit(self) -> None:
        """Make the block history: one addition; see StreamingContext."""
        if self._count == 0:
            raise RuntimeError("commit() without begin()")
        self._first += self._count
        self._count = self._ahead = 0

    def in_order(self, layer: int) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values after the last commit, in order of time: [B, N, A, D]."""
        frames = self.layout.visible(self._first)
        return self.ring.frames(layer, [self.layout.slot(frame) for frame in frames])
