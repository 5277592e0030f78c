"""Case h: tables of noise levels, lookups, and the moves between levels."""

from __future__ import annotations

import torch

from streamer.models.sampler import FlowMatchTable, add_noise, euler_step, to_clean, to_flow
from tests.conformance.casefile import CaseFile, Difference, compare


def run(case: CaseFile) -> list[Difference]:
    """Every shift of the sheet, and the table of the class defaults."""
    defaults = case.sheet["defaults"]
    table = FlowMatchTable(
        defaults["shift"],
        100,
        sigma_min=defaults["sigma_min"],
        extra_step=defaults["extra_one_step"],
    )
    differences = [
        compare("io.out.defaults.sigmas_100", case["io.out.defaults.sigmas_100"], table.sigmas)
    ]
    for shift in case.sheet["shifts"]:
        differences += _run_shift(case, shift)
    return differences


def _run_shift(case: CaseFile, shift: float) -> list[Difference]:
    prefix = f"io.out.shift{shift:g}"
    table, short = FlowMatchTable(shift), FlowMatchTable(shift, 50)
    plain = FlowMatchTable(shift, extra_step=False)
    t, flow = case["io.in.query_t"], case["io.in.flow"]
    clean, noise = case["io.in.x0"], case["io.in.noise"]
    index, sigma = table.lookup(t), table.sigma(t)
    noisy = add_noise(clean, noise, sigma)
    following = torch.cat([table.sigmas, torch.zeros(1)])[index + 1]
    ours = {
        f"{prefix}.sigmas": table.sigmas,
        f"{prefix}.timesteps": table.timesteps,
        f"{prefix}.sigmas_50steps": short.sigmas,
        f"{prefix}.timesteps_50steps": short.timesteps,
        f"{prefix}_noextra.sigmas": plain.sigmas,
        f"{prefix}_noextra.timesteps": plain.timesteps,
        f"{prefix}.training_weights": table.training_weights(),
        f"{prefix}.lookup_sigma": sigma,
        f"{prefix}.add_noise": noisy,
        f"{prefix}.x0_from_flow": to_clean(noisy, flow, sigma),
        f"{prefix}.flow_from_x0": to_flow(noisy, clean, sigma),
        f"{prefix}.euler_step": euler_step(noisy, flow, sigma, following),
    }
    for name, steps in case.sheet["lists"].items():
        ours[f"{prefix}.warp.{name}"] = torch.tensor(table.warp(steps))
    differences = [compare(name, case[name], tensor) for name, tensor in ours.items()]
    recorded = case[f"{prefix}.lookup_index"]
    return [*differences, compare(f"{prefix}.lookup_index", recorded, index, tolerance=0.0)]
