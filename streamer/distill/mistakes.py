"""Mistakes for a student to unlearn: foreign tokens, and what long streams of its own end as.

A student that is trained on true history meets its own small mistakes only when it serves, and
there they add up over hundreds of blocks.  So its streams are run far past the length of any clip
from time to time, without gradients.  What they have become is kept in a DriftBank, and pieces of
it are put into the history of training clips of the same text, whose true continuation is the
target: the student learns to leave its own mistakes behind.  To recycle a model's errors into its
history is Stable Video Infinity's idea (Li et al. 2025, arXiv:2510.09212).

Such a stream is another one than the clip: only pieces of it can be put in.  What fades all over
the picture needs a history that is the clip's own and yet as worn as a stream is after many blocks.
So a few clips are kept as AgeingClips, and the student makes each again and again, every time from
what it made the time before: one more block's faults are added, and it stays the same clip.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamer.distill.shards import LatentClips


class DriftBank(nn.Module):
    """A ring of drifted blocks and the clips whose text they had.  Buffers only.

    capacity: blocks.  block_shape: F, C, H, W of a block.
    """

    blocks: Tensor
    rows: Tensor
    added: Tensor

    def __init__(self, capacity: int, block_shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.register_buffer("blocks", torch.zeros(capacity, *block_shape))
        self.register_buffer("rows", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """How many blocks there are to draw from."""
        return min(int(self.added), len(self.blocks))

    @torch.no_grad()
    def add(self, blocks: Tensor, rows: Tensor) -> None:
        """Keep blocks [N, F, C, H, W] of streams that had the text of clips `rows` [N]."""
        first = int(self.added)
        places = torch.arange(first, first + len(blocks)) % len(self.blocks)
        self.blocks[places] = blocks.to(self.blocks)
        self.rows[places] = rows.to(self.rows)
        self.added += len(blocks)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Some blocks [count, F, C, H, W] by chance, and the clips that go with them [count]."""
        chosen = torch.randint(len(self), (count,), generator=generator)
        return self.blocks[chosen], self.rows[chosen].cpu()


class AgeingClips(nn.Module):
    """Some clips as the student has made them again so far.  Buffers only.

    count: how many there are at a time.  clip_shape: F, C, H, W of a clip.
    """

    latents: Tensor
    rows: Tensor

    def __init__(self, count: int, clip_shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.register_buffer("latents", torch.zeros(count, *clip_shape))
        self.register_buffer("rows", torch.full((count,), -1))

    @torch.no_grad()
    def draw(
        self, count: int, renewed: float, clips: LatentClips, generator: torch.Generator
    ) -> Tensor:
        """Which ones to make again: [count].

        renewed: share of them that are true clips of an unchanging world again, by chance.
        """
        slots = torch.randperm(len(self.rows), generator=generator)[:count]
        is_new = torch.rand(count, generator=generator) < renewed
        is_new |= self.rows[slots].cpu() < 0
        rows = clips.draw_steady(count, generator)[is_new]
        self.rows[slots[is_new]] = rows.to(self.rows)
        self.latents[slots[is_new]] = clips.latents[rows].to(self.latents)
        return slots


def put_pieces(
    history: Tensor, drifted: Tensor, patch: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Put pieces of drifted blocks into clips, at the same places in all frames of a clip.

    history: [B, F, C, H, W].  drifted: [B, b, C, H, W], one block for each clip.  patch: height and
    width of a token.  Half of the clips are whole before some block: faults begin somewhere.
    """
    batch, frames, _, height, width = history.shape
    block = drifted.shape[1]
    num_blocks = frames // block
    mask = piece_masks(batch, (height // patch[0], width // patch[1]), patch, generator)
    since = torch.randint(-num_blocks, num_blocks, (batch, 1), generator=generator)
    is_late = torch.arange(num_blocks).repeat_interleave(block) >= since
    mask = mask & is_late[:, :, None, None, None]
    return torch.where(mask.to(history.device), drifted.repeat(1, num_blocks, 1, 1, 1), history)


def piece_masks(
    count: int, grid: tuple[int, int], patch: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Where clips show pieces of something else: one to three rectangles of tokens each.

    grid: rows and columns of tokens.  patch: height and width of a token in latents.
    result: bool [count, 1, 1, H, W].
    """
    rows, columns = grid
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    masks = torch.zeros(count, rows, columns, dtype=torch.bool)
    for number in range(3):
        top, left, height, width = torch.rand(4, count, 1, 1, generator=generator)
        is_used = torch.rand(count, 1, 1, generator=generator) < 1 / (1 + number)
        top, left = top * (rows + 1) - 1, left * (columns + 1) - 1
        masks |= (
            is_used
            & (row >= top)
            & (row < top + 1 + height * (rows - 1))
            & (column >= left)
            & (column < left + 1 + width * (columns / 2))
        )
    return masks.repeat_interleave(patch[0], 1).repeat_interleave(patch[1], 2)[:, None, None]


def swap_tokens(
    latents: Tensor, share: float, patch: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Put tokens of the next clip into some clips, at the same places in every frame of a clip.

    latents: [B, F, C, H, W].  share: of clips.  patch: height and width of a token.  Up to a tenth
    of a clip's tokens are swapped.
    """
    batch, _, _, height, width = latents.shape
    rows, columns = height // patch[0], width // patch[1]
    is_swapped = torch.rand(batch, 1, 1, generator=generator) < share
    how_many = 0.1 * torch.rand(batch, 1, 1, generator=generator)
    places = (torch.rand(batch, rows, columns, generator=generator) < how_many) & is_swapped
    mask = places.repeat_interleave(patch[0], 1).repeat_interleave(patch[1], 2)
    return torch.where(mask[:, None, None].to(latents.device), latents.roll(1, 0), latents)
