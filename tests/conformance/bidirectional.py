"""Case a: the bidirectional transformer, its parts, padding, and a batch of ragged clips."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from streamer_kernels import load_ops
from torch import Tensor, nn

from streamer.models.context import FullContext
from streamer.models.rotary import axis_channels, time_phases
from streamer.models.transformer import CausalWanTransformer, PromptKV, Residual
from tests.conformance.casefile import CaseFile, Difference, compare
from tests.conformance.network import load_network


def run(case: CaseFile) -> list[Difference]:
    """Compare the flow, every recorded intermediate, and the ragged batch."""
    network = load_network(case)
    x, t = case["io.in.x"].transpose(1, 2), case["io.in.t"]
    prompts = [name for name in sorted(case.tensors) if name.startswith("io.in.context")]
    embeds = torch.stack(
        [
            F.pad(case[name], (0, 0, 0, network.config.text_length - len(case[name])))
            for name in prompts
        ]
    )
    text = network.encode_text(embeds)
    parts = _record_parts(network)
    flow = network(x, t, text, FullContext()).transpose(1, 2)
    differences = [
        compare(name, case[name], flow)
        for name in ("io.out.y", "io.out.y_seq_padded", "io.out.y_diffusers")
        if name in case
    ]
    parts["patch_embed"] = (
        network.patchify(x).transpose(1, 2).unflatten(2, (x.shape[1], x.shape[3] // 2, -1))
    )
    parts["text_embed"] = network.text_embedding(embeds)
    parts["time_embed"] = network.embed_time(t[:, None])[:, 0]
    parts["time_proj"] = network.time_projection(parts["time_embed"])
    for name, tensor in case.tensors.items():
        if name.startswith("io.mid."):
            differences.append(compare(name, tensor, parts[name.removeprefix("io.mid.")]))
    differences += _ragged(case, network, text)
    return differences + _tables(case, network)


def _record_parts(network: CausalWanTransformer) -> dict[str, Tensor]:
    """A dictionary that the next pass fills with the output of every layer and of its parts."""
    parts: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor | Residual) -> None:
            # A layer leaves its last branch to be added by the next one.
            is_layer = isinstance(output, Residual)
            parts.setdefault(name, output.settle(load_ops("torch")) if is_layer else output)

        module.register_forward_hook(hook)

    for i, block in enumerate(network.blocks):
        keep(f"block{i}", block)
        for part in ("self_attn", "cross_attn"):
            keep(f"block{i}.{part}", block.get_submodule(part))
        keep(f"block{i}.ffn", block.get_submodule("ffn.2"))
    keep("head", network.head)
    return parts


def _ragged(case: CaseFile, network: CausalWanTransformer, text: PromptKV) -> list[Difference]:
    frames = case.sheet.get("ragged_frames", [])
    if not frames:
        return []
    clips = [case[f"io.in.ragged_x{i}"].transpose(0, 1) for i in range(len(frames))]
    batch = torch.stack([F.pad(clip, (0, 0) * 3 + (0, max(frames) - len(clip))) for clip in clips])
    flow = network(batch, case["io.in.t"], text, FullContext(valid_frames=frames))
    return [
        compare(f"io.out.ragged_y{i}", case[f"io.out.ragged_y{i}"], flow[i, :count].transpose(0, 1))
        for i, count in enumerate(frames)
    ]


def _tables(case: CaseFile, network: CausalWanTransformer) -> list[Difference]:
    """The published table: one column per pair of time, row, column, at positions 0, 1, ..."""
    if "io.table.rope_freqs_real" not in case:
        return []
    real, imag = case["io.table.rope_freqs_real"], case["io.table.rope_freqs_imag"]
    pairs = axis_channels(network.config.head_width)[0] // 2
    ours = time_phases(range(len(real)), network.config.head_width)
    return [
        compare("io.table.rope_freqs_real (time)", real[:, :pairs], ours[..., 0]),
        compare("io.table.rope_freqs_imag (time)", imag[:, :pairs], ours[..., 1]),
    ]
