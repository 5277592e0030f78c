"""The benchmark of decoders, on a processor at toy size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from streamer.engine import decoder_bench
from streamer.engine.decoder_bench import main, run


def test_every_decoder_is_timed_in_the_steady_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decoder_bench, "WARM_UPS", 1)
    monkeypatch.setattr(decoder_bench, "BUDGET_S", 0.0)
    path = tmp_path / "decoders.json"
    assert main(["--device", "cpu", "--size", "16x16", "--json", str(path)]) == 0
    told = json.loads(path.read_text())["decoders"]
    assert [each["name"] for each in told] == ["taehv", "taehv channels-last", "lightvae", "wan"]
    assert all(each["milliseconds"] > 0 for each in told)
    # A block that goes on, not the shorter one that begins a clip.
    assert {each["num_pictures"] for each in told} == {12}


def test_one_that_fails_is_named_and_the_next_is_timed(monkeypatch: pytest.MonkeyPatch):
    def timed(vae: Any, size: tuple[int, int], device: torch.device) -> tuple[float, int]:
        if vae.config.latent_channels and len(list(vae.parameters())) > 150:
            raise RuntimeError("CUDA out of memory\nmore")
        return 1.0, 12

    monkeypatch.setattr(decoder_bench, "time_decoder", timed)
    found = {line.name: line.fault for line in run(torch.device("cpu"), torch.float32)}
    assert found["taehv"] is None
    assert found["wan"] == "RuntimeError: CUDA out of memory"
