"""Published checkpoints: written small in each layout, and read back to the same output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from streamer.models.checkpoint import save_weights
from streamer.models.checkpoints import LoraFile, load_checkpoint, locate, recognise
from streamer.models.checkpoints.convert import convert
from tests.models.published import (
    CONFIG,
    LAYOUTS,
    diffusers_names,
    empty,
    output,
    prefixed,
    tiny,
    write_shards,
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_network_back(layout: str, tmp_path: Path):
    reference = tiny()
    path = LAYOUTS[layout](reference.state_dict(), tmp_path)
    model = empty()
    found = load_checkpoint(model, "transformer", [path])
    assert torch.equal(output(model), output(reference))
    assert found.sizes["num_layers"] == CONFIG.num_layers


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_converts_to_one_file_of_ours(layout: str, tmp_path: Path):
    reference = tiny()
    path = LAYOUTS[layout](reference.state_dict(), tmp_path)
    target = tmp_path / "out" / "model.safetensors"
    written = convert(locate([path], "transformer"), target, config='{"name": "x"}')
    assert target.stat().st_size == written
    stored = load_file(target)
    wanted = reference.state_dict()
    assert stored.keys() == wanted.keys()
    assert all(torch.equal(stored[name], wanted[name]) for name in wanted)
    again = recognise([target])
    assert again.tensors.notes["streamer.config"] == '{"name": "x"}'
    assert again.role == locate([path], "transformer").role


def test_weights_are_converted_to_the_wanted_numbers(tmp_path: Path):
    reference = tiny()
    path = LAYOUTS["causal_model.pt"](reference.state_dict(), tmp_path)
    model = empty()
    load_checkpoint(model, "transformer", [path], dtype=torch.bfloat16)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, reference.state_dict()[name].bfloat16()), name


def test_a_converted_file_may_be_smaller_and_loads_again(tmp_path: Path):
    reference = tiny()
    path = LAYOUTS["Krea"](reference.state_dict(), tmp_path)
    target = tmp_path / "model.safetensors"
    convert(locate([path], "transformer"), target, dtype=torch.bfloat16)
    assert target.stat().st_size < path.stat().st_size * 0.6
    model = empty()
    load_checkpoint(model, "transformer", [target])
    assert (output(model) - output(reference)).abs().max() < 0.1
    assert not list(tmp_path.glob("*.part"))


def test_our_own_additions_are_converted_too(tmp_path: Path):
    """A learned grid and pooled text, which no published model has."""
    config = replace(CONFIG, learned_grid=(2, 2), pooled_text=True)
    state = tiny(0, config).state_dict()
    save_file(state, tmp_path / "own.safetensors")
    convert(recognise([tmp_path / "own.safetensors"]), tmp_path / "again.safetensors")
    stored = load_file(tmp_path / "again.safetensors")
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], state[name]) for name in state)


def test_the_wanted_nest_of_a_training_save_is_loaded(tmp_path: Path):
    path = LAYOUTS["Self-Forcing generator_ema"](tiny().state_dict(), tmp_path)
    model = empty()
    load_checkpoint(model, "transformer", [path], nest="generator")
    name = "blocks.0.self_attn.q.weight"
    assert torch.equal(model.state_dict()[name], tiny().state_dict()[name] * 2)


def test_int8_storage_is_widened_as_before(tmp_path: Path):
    """Both readers of our own files do the same arithmetic."""
    from streamer.models.checkpoint import load_weights

    config = replace(CONFIG, width=64, ffn_width=96)
    path = tmp_path / "model.safetensors"
    save_weights(tiny(1, config).state_dict(), path, "int8")
    old, new = empty(config), empty(config)
    load_weights(old, [path])
    load_checkpoint(new, "transformer", [path])
    assert all(torch.equal(t, new.state_dict()[n]) for n, t in old.state_dict().items())


def test_progress_rises_from_nothing_to_all(tmp_path: Path):
    path = LAYOUTS["causal_model.pt"](tiny().state_dict(), tmp_path)
    told: list[tuple[float, str]] = []
    load_checkpoint(empty(), "transformer", [path], on_progress=lambda *report: told.append(report))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert {name for _, name in told} == {*tiny().state_dict(), ""}


def test_files_are_mapped_and_not_read_whole(tmp_path: Path):
    """A pickle and a safetensors file: the memory of a tensor belongs to the file."""
    big = {"patch_embedding.weight": torch.zeros(4, 16, 1, 2, 2), "x": torch.zeros(1 << 20)}
    torch.save(big, tmp_path / "a.pt")
    save_file(big, tmp_path / "b.safetensors")
    for name in ("a.pt", "b.safetensors"):
        tensors = recognise([tmp_path / name]).tensors
        mapped = tensors.read("x")
        assert mapped.untyped_storage().nbytes() >= mapped.numel() * 4
        assert _is_file_backed(mapped, tmp_path / name)


def _is_file_backed(tensor: Tensor, path: Path) -> bool:
    """Whether a tensor's address lies in a mapping of this file (Linux)."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, *rest = line.split()
        low, high = (int(bound, 16) for bound in bounds.split("-"))
        if low <= address < high:
            return bool(rest) and rest[-1] == str(path)
    return False


# ---- LoRA ---------------------------------------------------------------------------------------

RANK = 4
TARGETS = ("blocks.0.self_attn.q", "blocks.1.cross_attn.o", "blocks.2.ffn.0")


def halves(reference: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Random low-rank changes of some modules: down [R, in], up [out, R]."""
    torch.manual_seed(9)
    made = {}
    for module in TARGETS:
        rows, columns = reference.state_dict()[f"{module}.weight"].shape
        made[module] = torch.randn(RANK, columns), torch.randn(rows, RANK) * 0.1
    return made


def lora_peft(changes: dict[str, tuple[Tensor, Tensor]], folder: Path, alpha: float) -> Path:
    folder.mkdir()
    save_file(
        {
            f"base_model.model.{module}.{half}.weight": tensor
            for module, pair in changes.items()
            for half, tensor in zip(("lora_A", "lora_B"), pair, strict=True)
        },
        folder / "adapter_model.safetensors",
    )
    settings = {"r": RANK, "lora_alpha": alpha}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def lora_diffusers(changes: dict[str, tuple[Tensor, Tensor]], folder: Path, alpha: float) -> Path:
    folder.mkdir()
    weights = {f"{module}.weight": torch.zeros(1) for module in changes}
    named = [name.removesuffix(".weight") for name in diffusers_names(weights)]
    theirs = dict(zip(changes, named, strict=True))
    state = {}
    for module, (down, up) in changes.items():
        state[f"transformer.{theirs[module]}.lora_A.weight"] = down
        state[f"transformer.{theirs[module]}.lora_B.weight"] = up
        state[f"transformer.{theirs[module]}.alpha"] = torch.tensor(alpha)
    path = folder / "lora.safetensors"
    save_file(state, path)
    return path


def lora_kohya(changes: dict[str, tuple[Tensor, Tensor]], folder: Path, alpha: float) -> Path:
    folder.mkdir()
    state = {}
    for module, (down, up) in changes.items():
        flat = "lora_unet_" + module.replace(".", "_")
        state |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
        state[f"{flat}.alpha"] = torch.tensor(alpha)
    path = folder / "lora.safetensors"
    save_file(state, path)
    return path


def lora_longlive(changes: dict[str, tuple[Tensor, Tensor]], folder: Path, alpha: float) -> Path:
    """A pickle under `generator_lora`, without an alpha: the factor is 1."""
    folder.mkdir()
    assert alpha == RANK
    state = {}
    for module, (down, up) in changes.items():
        state[f"base_model.model.{module}.lora_A.weight"] = down
        state[f"base_model.model.{module}.lora_B.weight"] = up
    torch.save({"generator_lora": state, "critic_lora": {}}, folder / "lora.pt")
    return folder / "lora.pt"


@pytest.mark.parametrize("write", [lora_peft, lora_diffusers, lora_kohya, lora_longlive])
@pytest.mark.parametrize("scale", [1.0, 0.5, -1.0])
def test_a_lora_is_merged_by_alpha_over_rank_and_scale(write, scale: float, tmp_path: Path):
    alpha = RANK if write is lora_longlive else 2 * RANK
    reference = tiny()
    path = LAYOUTS["LongLive base"](reference.state_dict(), tmp_path)
    changes = halves(reference)
    file = write(changes, tmp_path / "lora", alpha)
    model = empty()
    load_checkpoint(model, "transformer", [path], loras=[LoraFile(file, scale)])
    for module, (down, up) in changes.items():
        weight = reference.get_submodule(module).weight
        weight += scale * alpha / RANK * (up @ down)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, reference.state_dict()[name], msg=name)
    assert (output(model) - output(tiny())).abs().max() > 1e-3
    torch.testing.assert_close(output(model), output(reference), atol=1e-5, rtol=1e-5)


def test_plain_differences_of_norms_and_biases_are_added(tmp_path: Path):
    reference = tiny()
    path = LAYOUTS["causal_model.pt"](reference.state_dict(), tmp_path)
    state = {
        "diffusion_model.blocks.0.self_attn.q.lora_down.weight": torch.zeros(RANK, 32),
        "diffusion_model.blocks.0.self_attn.q.lora_up.weight": torch.zeros(32, RANK),
        "diffusion_model.blocks.0.self_attn.q.diff_b": torch.ones(32),
        "diffusion_model.blocks.0.norm3.diff": torch.full((32,), 2.0),
        "diffusion_model.blocks.0.diff_m": torch.full((1, 6, 32), 3.0),
    }
    save_file(state, tmp_path / "lora.safetensors")
    model = empty()
    lora = LoraFile(tmp_path / "lora.safetensors", 0.5)
    load_checkpoint(model, "transformer", [path], loras=[lora])
    was, now = reference.state_dict(), model.state_dict()
    for name, change in (
        ("blocks.0.self_attn.q.bias", 0.5),
        ("blocks.0.norm3.weight", 1.0),
        ("blocks.0.modulation", 1.5),
        ("blocks.0.self_attn.q.weight", 0.0),
        ("blocks.1.norm3.weight", 0.0),
    ):
        torch.testing.assert_close(now[name], was[name] + change)


def test_a_lora_is_merged_when_converting(tmp_path: Path):
    reference = tiny()
    path = LAYOUTS["LongLive base"](reference.state_dict(), tmp_path)
    file = lora_peft(halves(reference), tmp_path / "lora", RANK)
    target = tmp_path / "merged.safetensors"
    convert(locate([path], "transformer"), target, loras=[LoraFile(file)])
    merged, loaded = empty(), empty()
    load_checkpoint(merged, "transformer", [target])
    load_checkpoint(loaded, "transformer", [path], loras=[LoraFile(file)])
    assert torch.equal(output(merged), output(loaded))


# ---- which network in a folder ------------------------------------------------------------------


def test_the_stream_model_is_chosen_over_the_teacher_beside_it(tmp_path: Path):
    folder = LAYOUTS["causvid_models folder"](tiny().state_dict(), tmp_path)
    found = locate([folder], "transformer")
    assert found.role == "stream"
    assert found.path.name == "causal_model.pt"


def test_a_nested_folder_of_checkpoints_is_searched(tmp_path: Path):
    LAYOUTS["Self-Forcing generator"](tiny().state_dict(), tmp_path)
    assert locate([tmp_path], "transformer").path.name == "self_forcing_dmd.pt"


def test_a_teacher_is_loaded_where_the_user_insists(tmp_path: Path):
    folder = write_shards(tiny().state_dict(), tmp_path / "Wan")
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanModel"}))
    model = empty()
    load_checkpoint(model, "transformer", [folder], assume_causal=True)
    assert torch.equal(output(model), output(tiny()))


def test_a_tied_embedding_needs_one_tensor_only(tmp_path: Path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Embedding(8, 4)
            self.encoder = nn.Module()
            self.encoder.embed_tokens = self.shared
            self.encoder.final_layer_norm = nn.LayerNorm(4, bias=False)

    with torch.device("meta"):
        module = Tied()
    table, norm = torch.randn(8, 4), torch.randn(4)
    state = {"token_embedding.weight": table, "norm.weight": norm}
    mark = {"blocks.0.ffn.gate.0.weight": torch.zeros(1)}
    torch.save(state | mark, tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    found = recognise([tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"])
    assert (found.kind, found.layout) == ("text", "original")
    found.names.pop("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")  # type: ignore[attr-defined]
    from streamer.models.checkpoints import fill

    fill(module, found)
    assert module.encoder.embed_tokens.weight is module.shared.weight
    assert torch.equal(module.shared.weight, table)


def test_prefixes_do_not_hide_a_teacher_copied_under_a_causal_name(tmp_path: Path):
    state = tiny().state_dict()
    folder = write_shards(state, tmp_path / "Wan")
    (folder / "causvid_models").mkdir()
    torch.save(prefixed(state), folder / "causvid_models" / "causal_model.pt")
    found = recognise([folder / "causvid_models" / "causal_model.pt"])
    assert found.role == "bidirectional"
    assert "its numbers are those of" in found.why
