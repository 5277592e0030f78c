"""Samples as contact sheets: many prompts, one long stream, prompt changes, rendered clips.

Streams are made as they are served.  Decides what to show; sheets.py draws it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.distill.captions import sample_pair
from streamer.distill.edition import Edition
from streamer.distill.looks import measure_look
from streamer.distill.players import Player
from streamer.distill.report import Look
from streamer.distill.sheets import Picture, Row, draw_sheet
from streamer.distill.teacher_clips import TeacherClips
from streamer.distill.world import Renderer
from streamer.stream import FrameBlock

STREAM_SECONDS = (1.0, 60.0, 300.0, 600.0)
_WORLD_SECONDS = (0.0, 1.0, 2.0, 3.0, 3.5, 5.0)
_SWITCH_S = 3.0


def draw_prompts(
    player: Player,
    path: Path,
    texts: Sequence[str],
    seed: int,
    num_blocks: int = 6,
    teacher: TeacherClips | None = None,
) -> None:
    """A fresh stream for each text; the last picture of each block, and at its right the teacher's
    clip of the text, if there is a teacher."""
    clips = iter(()) if teacher is None else teacher.make(texts, seed, num_blocks)
    rows = []
    for number, text in enumerate(texts):
        with closing(player.play(seed + number, {0: text})) as stream:
            blocks = [next(stream) for _ in range(num_blocks)]
        pictures = [Picture(block.frames[-1], (_clock(block, player),)) for block in blocks]
        for clip in itertools.islice(clips, 1):
            for last in range(player.block_frames, len(clip) + 1, player.block_frames):
                pictures.append(Picture(clip[last - 1], (f"teacher {last / player.fps:.2f} s",)))
        rows.append(Row(text, tuple(pictures)))
    draw_sheet(path, f"prompts, seed {seed}", rows)


def draw_texts(edition: Edition, count: int, seed: int) -> tuple[str, ...]:
    """Captions with combinations and words that training never saw."""
    rng = random.Random(seed)
    return tuple(sample_pair(edition, rng, held_out=True)[1].text for _ in range(count))


def draw_stream(
    player: Player,
    path: Path,
    texts: Sequence[str],
    seed: int,
    seconds: Sequence[float] = STREAM_SECONDS,
) -> None:
    """A long stream of each text, looked at and measured at some seconds."""
    rows = []
    for number, text in enumerate(texts):
        pictures: list[Picture] = []
        wanted = sorted(seconds)
        newest: list[NDArray[np.uint8]] = []
        with closing(player.play(seed + number, {0: text})) as stream:
            for block in stream:
                newest = [*newest, block.frames][-2:]
                if (block.first_frame + len(block.frames)) / player.fps < wanted[len(pictures)]:
                    continue
                look = measure_look(np.concatenate(newest), player.fps)
                pictures.append(_measured(block, wanted[len(pictures)], look))
                if len(pictures) == len(wanted):
                    break
        rows.append(Row(text, tuple(pictures)))
    draw_sheet(path, f"long streams, seed {seed}", rows, width_px=256)


def _measured(block: FrameBlock, at_s: float, look: Look) -> Picture:
    notes = (
        f"second {at_s:g}",
        f"red {look.red:.0f}  green {look.green:.0f}  blue {look.blue:.0f}",
        f"contrast {look.contrast:.0f}  saturation {look.saturation:.0f}",
        f"sharpness {look.sharpness:.1f}  motion {look.motion:.1f}",
    )
    return Picture(block.frames[-1], notes)


def draw_switches(
    player: Player,
    path: Path,
    changes: Sequence[tuple[str, str]],
    seed: int,
    num_before: int = 3,
    num_after: int = 5,
) -> None:
    """Streams whose text changes after some blocks; the last picture of each block."""
    rows = []
    for number, (old, new) in enumerate(changes):
        pictures = []
        with closing(player.play(seed + number, {0: old, num_before: new})) as stream:
            for block in (next(stream) for _ in range(num_before + num_after)):
                is_new = block.index == num_before
                notes = (f"{_clock(block, player)}{'  new prompt' if is_new else ''}",)
                pictures.append(Picture(block.frames[-1], notes))
        rows.append(Row(f"{old}\n\nthen: {new}", tuple(pictures)))
    draw_sheet(path, f"prompt changes, seed {seed}", rows)


def draw_world(edition: Edition, path: Path, seed: int, device: str, num_rows: int) -> None:
    """Rendered clips and what is said of them; each turns into another after 3 of its 5 seconds."""
    rng = random.Random(seed)
    renderer = Renderer(edition, device)
    rows = []
    for number in range(num_rows):
        (old, said), (new, then) = sample_pair(edition, rng), sample_pair(edition, rng)
        frames = [
            renderer.render(
                [old], [seed + number], 1, start_s=at_s, switch_to=[new], switch_s=[_SWITCH_S]
            )[0, 0]
            for at_s in _WORLD_SECONDS
        ]
        pictures = [
            Picture(frame.permute(1, 2, 0).cpu().numpy(), (f"second {at_s:g}",))
            for frame, at_s in zip(frames, _WORLD_SECONDS, strict=True)
        ]
        rows.append(Row(f"{said.text}\n\nthen: {then.text}", tuple(pictures)))
    draw_sheet(path, f"the {edition.name} world, seed {seed}", rows)


def _clock(block: FrameBlock, player: Player) -> str:
    """When the block's last frame is shown."""
    return f"{(block.first_frame + len(block.frames)) / player.fps:.2f} s"
