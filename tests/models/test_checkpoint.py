from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from streamer.errors import WeightsError
from streamer.models.checkpoint import load_weights, quantise, read_tensors, save_weights


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.LayerNorm(96))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    ("storage", "relative_error"), [("float32", 0.0), ("float16", 5e-4), ("int8", 4e-3)]
)
def test_weights_come_back_as_float32(path: Path, storage: str, relative_error: float):
    """Half a step of int8 is 1/254 of a row's largest number; of float16, 2**-11 of each."""
    written = small()
    save_weights(written.state_dict(), path, storage)  # type: ignore[arg-type]
    read = small()
    nn.init.zeros_(read[0].weight)
    load_weights(read, [path])
    for name, tensor in read.state_dict().items():
        wanted = written.state_dict()[name]
        assert tensor.dtype == torch.float32
        assert (tensor - wanted).abs().max() <= relative_error * wanted.abs().max()


def test_weights_of_a_smaller_module_may_be_made_to_fit(path: Path):
    written, read = small(), small()
    with torch.no_grad():
        written[0].bias.fill_(2.0)
    save_weights(written[0].state_dict(prefix="0."), path, "float32")
    with pytest.raises(WeightsError, match=r"1\.bias, 1\.weight are missing"):
        load_weights(read, [path])
    own = torch.full((96,), 3.0)
    more = dict.fromkeys(["1.weight", "1.bias"], own)
    load_weights(read, [path], lambda tensors, wanted: tensors | more)
    assert torch.equal(read[1].weight, own)
    assert torch.equal(read[0].bias, torch.full((96,), 2.0))


def test_int8_is_a_quarter_of_float32(tmp_path: Path):
    for storage in ("float32", "int8"):
        save_weights({"a": torch.randn(512, 512)}, tmp_path / storage, storage)  # type: ignore[arg-type]
    sizes = [(tmp_path / storage).stat().st_size for storage in ("float32", "int8")]
    assert sizes[1] < sizes[0] * 0.26


def test_a_row_of_zeros_stays_zero():
    rows, scale = quantise(torch.zeros(2, 4))
    assert torch.equal(rows * scale[:, None], torch.zeros(2, 4))


def test_a_module_on_the_meta_device_is_filled(path: Path):
    save_weights(small().state_dict(), path)
    with torch.device("meta"):
        module = small()
    load_weights(module, [path])
    assert module(torch.ones(1, 64)).isfinite().all()


def test_shards_are_read_together(tmp_path: Path):
    tensors = small().state_dict()
    paths = []
    for number, (name, tensor) in enumerate(tensors.items()):
        paths.append(tmp_path / f"{number}.safetensors")
        save_weights({name: tensor}, paths[-1], "float32")
    read = small()
    load_weights(read, paths)
    assert all(torch.equal(read.state_dict()[name], tensors[name]) for name in tensors)
    with pytest.raises(WeightsError, match=r"0\.weight is also in"):
        read_tensors([paths[0], paths[0]])


def test_a_missing_file_is_named(path: Path):
    with pytest.raises(WeightsError, match=r"model\.safetensors: there is no such weights file"):
        load_weights(small(), [path])


@pytest.mark.parametrize("kept", [0, 5, 100, -10])
def test_a_damaged_file_is_named(path: Path, kept: int):
    save_weights(small().state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"model\.safetensors: damaged"):
        load_weights(small(), [path])


def test_a_wrong_shape_is_named_with_both_shapes(path: Path):
    tensors = small().state_dict()
    save_weights(tensors | {"0.bias": torch.zeros(7)}, path)
    with pytest.raises(WeightsError, match=r"0\.bias is \(7,\), the config needs \(96,\)"):
        load_weights(small(), [path])


def test_missing_and_unknown_names_are_listed(path: Path):
    tensors = small().state_dict()
    save_weights({name: t for name, t in tensors.items() if name != "1.bias"}, path)
    with pytest.raises(WeightsError, match=r"1\.bias is missing"):
        load_weights(small(), [path])
    save_weights(tensors | {"ema": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="ema is unknown"):
        load_weights(small(), [path])


def test_numbers_that_are_not_finite_are_refused(path: Path):
    tensors = small().state_dict()
    tensors["0.bias"][3] = float("nan")
    save_weights(tensors, path)
    with pytest.raises(WeightsError, match=r"0\.bias holds numbers that are not finite"):
        load_weights(small(), [path])


def test_int8_without_its_scale_is_refused(path: Path):
    save_file({"0.weight": torch.zeros(96, 64, dtype=torch.int8)}, path)
    with pytest.raises(WeightsError, match=r"0\.weight\.scale does not fit"):
        read_tensors([path])
