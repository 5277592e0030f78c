"""Cases b, c1-c3, d, q: block-wise rollouts with a cache, and the block-causal pass without one.

The published behaviour: keys of the sinks keep their absolute distance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.context import BlockCausalContext, StreamingContext
from streamer.models.rolling import RollingContext
from streamer.models.sampler import (
    FlowMatchTable,
    denoise_block,
    recache_together,
    to_clean,
    write_block,
)
from streamer.models.transformer import CausalWanTransformer, PromptKV
from tests.conformance.casefile import CaseFile, Difference, compare
from tests.conformance.network import load_network


class RecordedModel:
    """The network, comparing every call with the recorded one of the same number."""

    def __init__(
        self, case: CaseFile, network: CausalWanTransformer, table: FlowMatchTable
    ) -> None:
        self.case, self.network, self.table = case, network, table
        self.count = 0
        self.differences: list[Difference] = []

    def __call__(
        self, latents: Tensor, timestep: Tensor, text: PromptKV, context: StreamingContext
    ) -> Tensor:
        flow: Tensor = self.network(latents, timestep, text, context)
        clean = to_clean(latents, flow, self.table.sigma(timestep))
        for part, ours in (("x_in", latents), ("flow", flow), ("x0", clean)):
            name = f"call.{self.count:03d}.{part}"
            if name in self.case:
                recorded = self._computed(self.case[name], ours)
                self.differences.append(compare(name, recorded, ours))
        self.count += 1
        return flow

    def _computed(self, recorded: Tensor, ours: Tensor) -> Tensor:
        """What of a recorded call this project computes too.

        A recache that keeps the sinks computes keys for as many frames more and drops them; they
        are the oldest ones, nothing sees them, and recache_together leaves them out.
        """
        kind = self.case.sheet["calls"][self.count]["kind"]
        if kind == "recache" and self.case.sheet["global_sink"]:
            return recorded[:, recorded.shape[1] - ours.shape[1] :]
        return recorded


def run(case: CaseFile) -> list[Difference]:
    """A rollout when the sheet has a call table, one pass over the clip otherwise."""
    return _run_calls(case) if "calls" in case.sheet else _run_whole_clip(case)


def _run_calls(case: CaseFile) -> list[Difference]:
    sheet, network = case.sheet, load_network(case)
    table = FlowMatchTable(sheet["shift"])
    steps = table.steps(sheet["steps"], warp=sheet["warp"])
    model = RecordedModel(case, network, table)
    height, width = sheet["latent_hw"]
    context = RollingContext(
        network.config.cache_shape(height, width, sheet["batch"]),
        _layout(case),
        absolute_positions=True,
    )
    start, done = 0, []
    for prefill in (call for call in sheet["calls"] if call["kind"] == "prefill"):
        given = case["io.in.initial_latent"][:, start : start + prefill["frames"]]
        write_block(model, given, _prompt(case, network, prefill["prompt"]), context, prefill["t"])
        done.append(given)
        start += prefill["frames"]
    first_noise = 0
    switches = _Switches(case, model)
    for block, count in enumerate(sheet["block_sizes"]):
        noise = _Noise(case, block, first_noise, count)
        calls = [call for call in sheet["calls"] if call.get("block") == block]
        text = _prompt(case, network, calls[0]["prompt"])
        switches.before_block(done, text, context)
        done.append(denoise_block(model, steps, noise, text, context, calls[-1]["t"]))
        first_noise += count
    expected = Difference("number of calls", abs(model.count - len(sheet["calls"])), 0.0)
    return [
        compare(
            "io.in.denoising_steps", case["io.in.denoising_steps"], torch.tensor(steps.timesteps)
        ),
        compare("io.in.step_sigmas", case["io.in.step_sigmas"], torch.tensor(steps.sigmas)),
        *model.differences,
        *switches.differences,
        expected,
        compare("io.out.latents", case["io.out.latents"], torch.cat(done, dim=1)),
        *compare_cache(case, context),
    ]


class _Switches:
    """LongLive's prompt changes: a recache before the first block at or past each index.

    Empty for the cases of others, whose sheet names no switch.
    """

    def __init__(self, case: CaseFile, model: RecordedModel) -> None:
        self.case, self.model = case, model
        self.pending = sorted(case.sheet.get("switch_frame_indices", []))
        self.count = 0
        self.differences: list[Difference] = []

    def before_block(self, done: list[Tensor], text: PromptKV, context: RollingContext) -> None:
        """Recache when the next block starts at or past the next switch; compare the cache."""
        sheet = self.case.sheet
        start = sum(part.shape[1] for part in done)
        if not self.pending or start < self.pending[0]:
            return
        self.pending.pop(0)
        if start:
            self._recache(torch.cat(done, dim=1), text, context, sheet)

    def _recache(
        self, latents: Tensor, text: PromptKV, context: RollingContext, sheet: dict[str, Any]
    ) -> None:
        window = context.layout.window or latents.shape[1]
        recorded = sheet["recaches"][self.count]
        called = Difference("call of the recache", abs(recorded["call"] - self.model.count), 0.0)
        recache_together(
            self.model,
            latents[:, -window:],
            text,
            context,
            sheet["context_noise"],
            keeps_sinks=sheet["global_sink"],
        )
        name = f"io.out.recache{self.count}.cache"
        self.differences += [called, *compare_cache(self.case, context, name)]
        self.count += 1


class _Noise:
    """The recorded noise of one block, by draw."""

    def __init__(self, case: CaseFile, block: int, first: int, count: int) -> None:
        self.case, self.block, self.first, self.count = case, block, first, count

    def __call__(self, draw: int) -> Tensor:
        if draw > 0:
            return self.case[f"io.in.renoise.b{self.block}.s{draw - 1}"]
        return self.case["io.in.noise"][:, self.first : self.first + self.count]


def _layout(case: CaseFile) -> RingLayout:
    sheet = case.sheet
    window = sheet.get("local_attn_size", -1)
    frames = sum(sheet["block_sizes"]) + sheet.get("initial_latent_frames", 0)
    return RingLayout(
        window=None if window == -1 else window,
        sink=0 if window == -1 else sheet.get("sink_size", 0),
        block=max(sheet["block_sizes"]),
        capacity=frames,
    )


def _prompt(case: CaseFile, network: CausalWanTransformer, prompt: int) -> PromptKV:
    """One prompt for all samples, or prompt i for sample i where the sheet says so."""
    listed = case.sheet.get("per_sample_prompts") or [prompt]
    chosen = listed if len(listed) > 1 else [prompt] * case.sheet["batch"]
    return network.encode_text(torch.stack([case[f"io.in.prompt{i}"] for i in chosen]))


def compare_cache(
    case: CaseFile, context: RollingContext, prefix: str = "final.cache"
) -> list[Difference]:
    """The recorded cache is in order of time, with zeros behind the filled part."""
    differences = []
    tokens = context.shape.tokens_per_frame
    for layer in range(context.shape.num_layers):
        for part, ours in zip("kv", context.in_order(layer), strict=True):
            name = f"{prefix}.{layer}.{part}"
            if name not in case:
                continue
            whole = torch.zeros_like(case[name])
            whole[:, : ours.shape[1]] = ours
            differences.append(compare(name, case[name], whole))
        filled = context.in_order(layer)[0].shape[1]
        ends = {"global_end_index": context.next_position * tokens, "local_end_index": filled}
        for part, end in ends.items():
            name = f"{prefix}.{layer}.{part}"
            if name in case:
                ours = torch.full_like(case[name], end)
                differences.append(compare(name, case[name], ours, tolerance=0.0))
    return differences


def _run_whole_clip(case: CaseFile) -> list[Difference]:
    sheet, network = case.sheet, load_network(case)
    frames, size = sheet["num_frames"], sheet["frames_per_block"]
    first = [1] if sheet["independent_first_frame"] else []
    blocks = first + [size] * ((frames - len(first)) // size)
    window = sheet["local_attn_size"]
    layout = RingLayout(None if window == -1 else window, block=size, capacity=frames)
    context = BlockCausalContext(blocks, layout, absolute_positions=True)
    text = network.encode_text(case["io.in.prompt0"].unsqueeze(0))
    flow = network(case["io.in.x"].transpose(1, 2), case["io.in.t"], text, context)
    mask = torch.zeros_like(case["io.out.frame_mask"])
    start = 0
    for index, count in enumerate(blocks):
        for frame in context.seen_by_block(index):
            mask[start : start + count, frame] = True
        start += count
    return [
        compare("io.out.flow", case["io.out.flow"], flow.transpose(1, 2)),
        compare("io.out.frame_mask", case["io.out.frame_mask"], mask, tolerance=0.0),
    ]
