"""Cases c: CausVid: one rollout, or long video in fragments, its own and LightX2V's."""

from __future__ import annotations

import torch
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.context import StreamingContext
from streamer.models.fragments import (
    anchored_latents,
    make_fragments,
    make_rollouts,
    overlap_pictures,
)
from streamer.models.rolling import RollingContext
from streamer.models.sampler import DenoisingSteps, FlowMatchTable
from streamer.models.transformer import CausalWanTransformer, PromptKV
from streamer.models.wan_vae import LATENT_MEAN, LATENT_STD, WanVAE, WanVAEConfig
from tests.conformance import rollout
from tests.conformance.casefile import CaseFile, Difference, compare
from tests.conformance.network import load_network
from tests.conformance.rollout import RecordedModel, compare_cache


def run(case: CaseFile) -> list[Difference]:
    """LightX2V's fragments when the sheet names their variant, CausVid's rollouts when they
    overlap, and otherwise a rollout like Self-Forcing's."""
    if "variant" in case.sheet:
        return _run_fragments(case)
    is_chained = bool(case.sheet.get("num_overlap_frames"))
    return _run_rollouts(case) if is_chained else rollout.run(case)


def _new_context(case: CaseFile, network: CausalWanTransformer, num_frames: int) -> RollingContext:
    sheet = case.sheet
    height, width = sheet["latent_hw"]
    return RollingContext(
        network.config.cache_shape(height, width, sheet["batch"]),
        RingLayout(None, block=sheet["frames_per_block"], capacity=num_frames),
        absolute_positions=True,
    )


def _text(case: CaseFile, network: CausalWanTransformer) -> PromptKV:
    embeds = case["io.in.prompt0"].expand(case.sheet["batch"], -1, -1)
    return network.encode_text(embeds)


def _compare_steps(case: CaseFile, steps: DenoisingSteps) -> list[Difference]:
    """UniPC's recorded levels go down to 0."""
    told, levels = case["io.in.denoising_steps"], case["io.in.step_sigmas"]
    sigmas = [*steps.sigmas, 0.0][: len(levels)]
    return [
        compare("io.in.denoising_steps", told, torch.tensor(steps.timesteps)),
        compare("io.in.step_sigmas", levels, torch.tensor(sigmas)),
    ]


def _compare_count(case: CaseFile, count: int) -> Difference:
    return Difference("number of calls", abs(count - len(case.sheet["calls"])), 0.0)


# ---- CausVid ------------------------------------------------------------------------------------


def _run_rollouts(case: CaseFile) -> list[Difference]:
    sheet, network = case.sheet, load_network(case)
    table = FlowMatchTable(sheet["shift"])
    steps = table.steps(sheet["steps"], warp=sheet["warp"])
    model = RecordedModel(case, network, table)
    blocks, overlap = sheet["block_sizes"], sheet["num_overlap_frames"]
    context = _new_context(case, network, sum(blocks))
    vae = WanVAE(WanVAEConfig(width=sheet["vae_dim"])).eval()
    vae.load_state_dict(case.weights(sheet["vae_prefix"]), strict=True)

    def noise(rollout: int, block: int, draw: int) -> Tensor:
        if draw > 0:
            return case[f"io.in.r{rollout}.renoise.b{block}.s{draw - 1}"]
        first = sum(blocks[:block])
        return case[f"io.in.r{rollout}.noise"][:, first : first + blocks[block]]

    rollouts = list(
        make_rollouts(
            model,
            steps,
            noise,
            _text(case, network),
            context,
            vae,
            blocks=blocks,
            num_rollouts=sheet["rollouts"],
            overlap=overlap,
            context_timestep=sheet["context_noise"],
        )
    )
    tail = overlap_pictures(overlap, vae.config.temporal_reduction)
    differences = [*_compare_steps(case, steps), _compare_count(case, model.count)]
    for number, made in enumerate(rollouts):
        for part, ours in (
            ("start_latents", made.start),
            ("latents", made.latents),
            ("video_tail", made.pixels[:, -tail:]),
        ):
            name = f"io.out.r{number}.{part}"
            if name in case:
                differences.append(compare(name, case[name], ours))
    last = rollouts[-1]
    following = anchored_latents(vae, last.latents, last.pixels, overlap)
    long_video = torch.cat([made.pixels[:, :-tail] for made in rollouts], dim=1)
    recorded = case["io.out.long_video"]
    long_video = long_video if recorded.ndim == long_video.ndim else long_video[0]
    for name, ours in (("next_start_latents", following), ("long_video", long_video)):
        differences.append(compare(f"io.out.{name}", case[f"io.out.{name}"], ours))
    for name, numbers in (("vae_mean", LATENT_MEAN), ("vae_std", LATENT_STD)):
        if f"io.table.{name}" in case:
            recorded = case[f"io.table.{name}"]
            differences.append(compare(f"io.table.{name}", recorded, torch.tensor(numbers)))
    return [*differences, *model.differences, *compare_cache(case, context)]


# ---- LightX2V -----------------------------------------------------------------------------------


class _RecordedSolver:
    """The network, comparing every call, and what the solver made of the call before it.

    Recorded latents are [C, F, h, w].
    """

    def __init__(self, case: CaseFile, network: CausalWanTransformer) -> None:
        self.case, self.network = case, network
        self.calls = case.sheet["calls"]
        self.count = 0
        self.differences: list[Difference] = []

    def __call__(
        self, latents: Tensor, timestep: Tensor, text: PromptKV, context: StreamingContext
    ) -> Tensor:
        flow: Tensor = self.network(latents, timestep, text, context)
        self._compare("x_in", latents)
        self._compare("flow", flow)
        called = self.calls[self.count]
        told = Difference(f"call.{self.count:03d} t", abs(called["t"] - float(timestep[0])), 1e-3)
        self.differences.append(told)
        if called["kind"] == "recompute":
            fragment = called["fragment"]
            name = f"io.out.f{fragment}.recompute_latents"
            self.differences.append(compare(name, self.case[name], _unbatched(latents)))
        if called.get("step", 0) > 0:
            self._compare("latents_after", latents, self.count - 1)
        self.count += 1
        return flow

    def compare_blocks(self, clean: Tensor) -> list[Difference]:
        """The state after each block's last step is the block's clean latents."""
        last = max(call.get("step", 0) for call in self.calls)
        ends = [call["n"] for call in self.calls if call.get("step") == last]
        parts = clean.split(self.case.sheet["frames_per_block"], dim=1)
        return [
            compare(name, self.case[name], _unbatched(part))
            for name, part in zip(
                (f"call.{end:03d}.latents_after" for end in ends), parts, strict=True
            )
        ]

    def _compare(self, part: str, ours: Tensor, number: int | None = None) -> None:
        name = f"call.{self.count if number is None else number:03d}.{part}"
        if name in self.case:
            self.differences.append(compare(name, self.case[name], _unbatched(ours)))


def _run_fragments(case: CaseFile) -> list[Difference]:
    sheet, network = case.sheet, load_network(case)
    steps = _read_steps(case)
    model = _RecordedSolver(case, network)
    context = _new_context(case, network, sheet["num_blocks"] * sheet["frames_per_block"])

    def noise(fragment: int, block: int, draw: int) -> Tensor:
        name = "noise" if draw == 0 else f"renoise.s{draw - 1}"
        return case[f"io.in.f{fragment}.b{block}.{name}"].transpose(0, 1)[None]

    latents = make_fragments(
        model,
        steps,
        noise,
        _text(case, network),
        context,
        num_blocks=sheet["num_blocks"],
        num_fragments=sheet["fragments"],
    )
    return [
        *_compare_steps(case, steps),
        _compare_count(case, model.count),
        *model.differences,
        *model.compare_blocks(latents),
        compare("io.out.latents", case["io.out.latents"], _unbatched(latents)),
        *compare_cache(case, context),
    ]


def _read_steps(case: CaseFile) -> DenoisingSteps:
    """The two versions: UniPC on the list as it is, or re-noising on the list warped once more."""
    variant, numbers = case.sheet["variant"], case.sheet["steps"]
    if variant == "unipc":
        return DenoisingSteps.literal(numbers)
    if variant == "distill":
        return FlowMatchTable(case.sheet["shift"]).steps(numbers, warp=True)
    raise ValueError(f"variant is {variant!r}; this runner knows 'unipc' and 'distill'")


def _unbatched(latents: Tensor) -> Tensor:
    """[1, F, C, h, w] as recorded: [C, F, h, w]."""
    return latents[0].transpose(0, 1)
