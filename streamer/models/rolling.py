"""RollingContext: what a stream's open block may look at while it is served, written in place.

The other kinds are in `context.py`; tests/models/test_context.py holds all of them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from streamer_kernels import Ops
from streamer_kernels.attend_views import SeenFrame, View, ViewTable, view_frames
from streamer_kernels.quantise import Kind
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.context import AttentionContext, Place, torch_ops
from streamer.models.ring import CacheShape, Ring
from streamer.models.rotary import sent, shift_table, space_phases, table_dtype, time_phases


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
        self.ops = ops or torch_ops()
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
        self._slots[: places.numel()].copy_(sent(places.flatten(), self._slots.device, torch.int64))
        start = self._origin + self._first
        time = self._sent(time_phases(range(start, start + len(frames)), width))
        self._table[: len(frames), :, : time.shape[1]] = time[:, None]

    def _sent(self, table: Tensor) -> Tensor:
        return sent(table, self._table.device, self._table.dtype)

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
