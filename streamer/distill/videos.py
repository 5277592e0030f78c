"""Prompt-video pairs for published models: folders of videos and lists of prompts, as shards.

A video's caption is a text file beside it, clip.mp4 and clip.txt, or a line of captions.jsonl in
the folder: {"file": "clip.mp4", "text": "..."}.  Videos are decoded with PyAV, brought to the
stream's rate and size (scaled to cover it, then cropped at the middle), cut into clips, and kept as
latents; texts are kept as the text encoder's rows.  Everything slow happens once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from streamer.config import StreamSection
from streamer.distill.replacing import replacing
from streamer.errors import ConfigError
from streamer.models.text import TextEncoder
from streamer.models.vae import VideoVAE

log = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
TEXTS_PER_SHARD = 64
MAX_CLIPS_PER_VIDEO = 8


@dataclass(frozen=True)
class CaptionedVideo:
    """A file and what it shows."""

    path: Path
    text: str


def find_videos(folder: Path) -> list[CaptionedVideo]:
    """The videos of a folder that have a caption, by name.

    Raises ConfigError for a folder without any, or a line of captions.jsonl that is not as above.
    """
    told: dict[str, str] = {}
    listing = folder / "captions.jsonl"
    if listing.is_file():
        for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
            try:
                entry = json.loads(line)
                told[str(entry["file"])] = str(entry["text"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f'{listing}:{number}: expected {{"file": "...", "text": "..."}}, found {line!r}'
                ) from error
    found = []
    for path in sorted(p for p in folder.glob("**/*") if p.suffix.lower() in SUFFIXES):
        sidecar = path.with_suffix(".txt")
        text = told.get(str(path.relative_to(folder)))
        if text is None and sidecar.is_file():
            text = sidecar.read_text(encoding="utf-8").strip()
        if text:
            found.append(CaptionedVideo(path, text))
        else:
            log.warning("left out, no caption file=%s", path)
    if not found:
        raise ConfigError(
            f"{folder}: no video with a caption; put clip.txt beside clip.mp4, or a captions.jsonl"
        )
    return found


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, one on each line.  Raises ConfigError when there is none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not any(lines):
        raise ConfigError(f"{path}: holds no prompt; write one on each line")
    return [line for line in lines if line]


def read_clips_of(
    path: Path, num_frames: int, height: int, width: int, fps: int
) -> Iterator[Tensor]:
    """Clips of a video, one after the other: uint8 [T, 3, H, W]; a rest that is too short is left.

    Raises ConfigError for a file that is no video.
    """
    frames: list[Tensor] = []
    try:
        for picture in _at_rate(path, height, width, fps):
            frames.append(picture)
            if len(frames) == num_frames:
                yield torch.stack(frames)
                frames = []
    except (av.FFmpegError, IndexError) as error:
        raise ConfigError(f"{path}: cannot be read as a video: {error}") from error


def _at_rate(path: Path, height: int, width: int, fps: int) -> Iterator[Tensor]:
    """The picture that the video shows at each moment of the stream's rate, up to its last."""
    shown: Tensor | None = None
    moment = 0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time is None:
                continue
            while shown is not None and moment / fps < frame.time - 1e-6:
                yield shown
                moment += 1
            shown = _fit(frame, height, width)
    if shown is not None:
        yield shown


def build_video_shards(
    out: Path,
    stream: StreamSection,
    vae: VideoVAE,
    encoder: TextEncoder,
    *,
    videos: Path | None,
    prompts: Sequence[str],
    num_latents: int,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write clips-*.safetensors, one for each video, and texts-*.safetensors for the prompts.

    What is there already is kept.  Raises ConfigError when there is neither a video nor a prompt.
    """
    if videos is None and not prompts:
        raise ConfigError("neither videos nor prompts: there is nothing to make shards of")
    out.mkdir(parents=True, exist_ok=True)
    done = 0
    for number, video in enumerate(find_videos(videos) if videos is not None else []):
        path = out / f"clips-{number:05d}.safetensors"
        if not path.exists():
            _write_video(path, video, stream, vae, encoder, num_latents, device)
        done += 1
        on_progress(done)
    for first in range(0, len(prompts), TEXTS_PER_SHARD):
        path = out / f"texts-{first // TEXTS_PER_SHARD:05d}.safetensors"
        if not path.exists():
            rows = [trimmed(encoder.encode([text])) for text in prompts[first:][:TEXTS_PER_SHARD]]
            longest = max(row.shape[1] for row in rows)
            padded = [F.pad(row, (0, 0, 0, longest - row.shape[1])) for row in rows]
            _save({"text": torch.stack(padded).half().cpu()}, path)
        done += 1
        on_progress(done)


def trimmed(rows: Tensor) -> Tensor:
    """Encoded text [1, K, E] without the rows of zeros behind it, at least one row."""
    used = rows[0].any(1).nonzero()
    return rows[:, : int(used[-1]) + 1 if len(used) else 1]


@torch.no_grad()
def _write_video(
    path: Path,
    video: CaptionedVideo,
    stream: StreamSection,
    vae: VideoVAE,
    encoder: TextEncoder,
    num_latents: int,
    device: torch.device,
) -> None:
    sizes = vae.config
    num_frames = num_latents * sizes.temporal_reduction
    if sizes.encodes_single_first:
        num_frames -= sizes.temporal_reduction - 1
    latents = []
    clips = read_clips_of(video.path, num_frames, stream.height, stream.width, stream.fps)
    for clip, _ in zip(clips, range(MAX_CLIPS_PER_VIDEO), strict=False):
        made, _ = vae.encode(clip[None].to(device).float() / 255)
        latents.append(made.cpu())
    if not latents:
        log.warning("left out, shorter than %d frames file=%s", num_frames, video.path)
        return
    count = len(latents)
    text = trimmed(encoder.encode([video.text]))[:, None].half().cpu()
    _save(
        {
            "latents": torch.cat(latents).half(),
            "text": text.expand(count, -1, -1, -1).contiguous(),
            "switch": torch.zeros(count, dtype=torch.int64),
            "begins": torch.ones(count, dtype=torch.bool),
        },
        path,
    )


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with replacing(path) as partial:
        save_file(tensors, partial)


def _fit(frame: av.VideoFrame, height: int, width: int) -> Tensor:
    """A picture scaled to cover the size and cropped at the middle: uint8 [3, H, W]."""
    scale = max(height / frame.height, width / frame.width)
    rows, columns = round(frame.height * scale), round(frame.width * scale)
    picture = frame.reformat(width=max(columns, width), height=max(rows, height), format="rgb24")
    pixels = torch.from_numpy(picture.to_ndarray()).permute(2, 0, 1)
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width].contiguous()
