"""What `streamer doctor` says of the kernels."""

import json
from pathlib import Path

import pytest
import torch

from streamer.commands.kernel_check import check_kernels
from streamer.config import Config, load_config

KEY = f"NVIDIA H100 torch-{torch.__version__} torch.bfloat16 Shape() torch 0123"


def wan(kernels: str = "auto") -> Config:
    config = load_config("wan2.1-t2v-1.3b-self-forcing")
    assert config.model is not None
    model = config.model.model_copy(update={"kernels": kernels})
    return config.model_copy(update={"model": model})


def test_the_choice_of_the_last_start_is_told(tmp_path: Path):
    path = tmp_path / "kernels.json"
    choices = {"attend+attend_views": {"name": "cudnn"}, "modulate": {"name": "triton"},
               "gate_add": {"name": "triton"}}  # fmt: skip
    other = {"modulate": {"name": "wrong device"}}
    path.write_text(json.dumps({KEY: choices, KEY.replace("H100", "A100"): other}))
    found = check_kernels(wan(), "NVIDIA H100", path)
    assert found.status == "ok"
    assert found.found == (
        "measured here before: cudnn: attend, attend_views; triton: modulate, gate_add"
    )


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps({KEY: ["x"]}), "{}"])
def test_a_missing_or_damaged_file_means_that_nothing_was_measured(tmp_path: Path, text: str):
    path = tmp_path / "kernels.json"
    if text:
        path.write_text(text)
    assert "not measured yet" in check_kernels(wan(), "NVIDIA H100", path).found


def test_without_a_gpu_pytorch_serves_and_triton_is_refused():
    assert check_kernels(wan(), "").found == "PyTorch's, as always on a processor"
    refused = check_kernels(wan("triton"), "")
    assert (refused.status, refused.way_out) == ("fail", "set model.kernels to 'auto'")
    assert check_kernels(load_config("pattern"), "").found == "none needed"
    assert "as model.kernels says" in check_kernels(wan("torch"), "NVIDIA H100").found
