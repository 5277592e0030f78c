"""Case a2: the published widths with weights by formula; one full pass and three cached ones."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.context import FullContext
from streamer.models.rolling import RollingContext
from streamer.models.transformer import CausalWanTransformer
from tests.conformance.casefile import CaseFile, Difference, compare
from tests.conformance.network import read_config

_SCALED = re.compile(r"(\S+) multiplied by ([\d.]+)")


def draw(shape: tuple[int, ...], stream: int, scale: float, offset: float) -> Tensor:
    """Values of one stream: top 24 bits of splitmix64 of the element number, scaled and moved."""
    start = np.uint64((stream << 32) & ((1 << 64) - 1))
    z = np.arange(math.prod(shape), dtype=np.uint64) + start + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    fraction = (z >> np.uint64(40)).astype(np.float64) / 2**24
    return torch.from_numpy(((fraction - 0.5) * scale + offset).astype(np.float32)).reshape(shape)


def draw_weight(name: str, shape: tuple[int, ...], stream: int, gain: float) -> Tensor:
    """A weight by its name: matrices by fan-in, biases and modulations around 0, norms around 1."""
    if name.endswith("modulation"):
        return draw(shape, stream, 1.0, 0.0)
    if len(shape) >= 2 and not name.endswith("gamma"):
        return draw(shape, stream, gain * math.sqrt(12.0 / math.prod(shape[1:])), 0.0)
    if name.endswith("bias"):
        return draw(shape, stream, 0.2, 0.0)
    return draw(shape, stream, 0.5, 1.0)


def draw_state(shapes: dict[str, tuple[int, ...]], procedural: dict[str, Any]) -> dict[str, Tensor]:
    """Weights by formula, then the sheet's exceptions.

    The stream of a tensor is `base` plus its rank in ASCII order.  Raises ValueError for an
    exception that is not known here.
    """
    state: dict[str, Tensor] = {}
    special = procedural.get("special") or {}
    for rank, name in enumerate(sorted(shapes)):
        stream = procedural["base"] + rank
        if name in special:
            state[name] = draw(shapes[name], stream, *special[name])
        else:
            state[name] = draw_weight(name, shapes[name], stream, procedural["gain"])
    if post := procedural.get("post"):
        scaled = _SCALED.fullmatch(post)
        if scaled is None:
            raise ValueError(f"post is {post!r}; this runner knows 'NAME multiplied by NUMBER'")
        state[scaled[1]] *= float(scaled[2])
    return state


def run(case: CaseFile) -> list[Difference]:
    """The bidirectional pass, then the cached passes in order."""
    sheet, config = case.sheet, read_config(case)
    with torch.device("meta"):
        network = CausalWanTransformer(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict(draw_state(shapes, sheet["procedural"]), strict=True, assign=True)
    inputs = {
        name: draw(tuple(spec["shape"]), spec["stream"], spec["scale"], spec.get("offset", 0.0))
        for name, spec in sheet["procedural"]["inputs"].items()
    }
    text = network.encode_text(inputs["context"].unsqueeze(0))

    def flow_of(call: dict[str, Any], context: FullContext | RollingContext) -> Tensor:
        latents = inputs[call["input"]].transpose(1, 2)
        flow: Tensor = network(latents, torch.tensor([call["t"]]), text, context)
        return flow.transpose(1, 2)

    name = "io.out.bidirectional_flow"
    differences = [compare(name, case[name], flow_of(sheet["bidirectional"], FullContext()))]
    height, width = sheet["latent_hw"]
    frames = sheet["frames"]
    last = max(call["start_frame"] for call in sheet["causal_calls"])
    layout = RingLayout(None, block=frames, capacity=last + frames)
    cache = RollingContext(config.cache_shape(height, width), layout, absolute_positions=True)
    for number, call in enumerate(sheet["causal_calls"]):
        if call["start_frame"] > cache.num_frames:
            cache.commit()
        cache.begin(frames)
        name = f"io.out.causal{number}_flow"
        differences.append(compare(name, case[name], flow_of(call, cache)))
    return differences
