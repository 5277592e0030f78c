"""How fast the decoders are: twelve pictures of 832x480, in the steady state.

    python -m streamer.engine.decoder_bench [--json FILE] [--device NAME] [--size WxH]

Random weights of the published sizes.  TAEHV is also tried in channels-last memory, which
sixteen-bit convolutions of a GPU may like better.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from streamer.config import DecoderSection
from streamer.engine.drawn import draw_decoder
from streamer.engine.parts import choose_device
from streamer.engine.rates import device_name
from streamer.engine.timeline import Timeline
from streamer.models.vae import VideoVAE

LATENTS = 3
WARM_UPS, REPEATS = 3, 10
BUDGET_S = 4.0
"""About so long may one decoder take, behind its first calls."""


@dataclass(frozen=True)
class DecoderLine:
    """One decoder.  milliseconds: of a block; fault: why there is no time."""

    name: str
    milliseconds: float | None
    num_pictures: int = 0
    fault: str | None = None


@torch.inference_mode()
def time_decoder(vae: VideoVAE, size: tuple[int, int], device: torch.device) -> tuple[float, int]:
    """Milliseconds and pictures of a block that goes on a clip; the median of some."""
    width, height = size
    side, dtype = vae.config.spatial_reduction, next(vae.parameters()).dtype
    shape = (1, LATENTS, vae.config.latent_channels, height // side, width // side)
    latents = torch.randn(shape, device=device, dtype=dtype)
    timeline, spans, state = Timeline(device), list[float](), None
    begun = time.monotonic()
    for number in range(WARM_UPS + REPEATS):
        first = timeline.mark()
        pixels, state = vae.decode(latents, state)
        spans.append(timeline.milliseconds(first, timeline.mark()))
        if number >= WARM_UPS and time.monotonic() - begun > BUDGET_S:
            break
    return statistics.median(spans[WARM_UPS:]), pixels.shape[1]


def run(
    device: torch.device, dtype: torch.dtype, size: tuple[int, int] = (832, 480)
) -> Iterator[DecoderLine]:
    """Every published decoder; one that fails is named, and the next one is timed."""
    for name in ("taehv", "taehv channels-last", "lightvae", "wan"):
        section = DecoderSection.model_validate({"kind": name.split()[0], "weights": ""})
        try:
            vae = draw_decoder(section, device, dtype)
            if name.endswith("channels-last"):
                assert isinstance(vae, nn.Module)
                vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            spent, count = time_decoder(vae, size, device)
            yield DecoderLine(name, spent, count)
        except RuntimeError as error:
            text = (str(error).strip().splitlines() or [""])[0]
            yield DecoderLine(name, None, fault=f"{type(error).__name__}: {text}"[:200])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each; the file is written after every one.  1 when one failed."""
    parser = argparse.ArgumentParser(prog="streamer.engine.decoder_bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", default="832x480", metavar="WxH")
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    width, height = map(int, options.size.split("x"))
    lines = []
    print(f"{device_name(device)}, {dtype}, {options.size}, {LATENTS} latent frames")
    for line in run(device, dtype, (width, height)):
        lines.append(line)
        spent = "-" if line.milliseconds is None else f"{line.milliseconds:.2f} ms"
        print(f"{line.name:24} {spent}  {line.fault or ''}".rstrip(), flush=True)
        if options.json is not None:
            told = {"device": device_name(device), "decoders": [asdict(each) for each in lines]}
            options.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return int(any(line.fault for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
