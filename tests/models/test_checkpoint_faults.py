"""Files that are not what was asked for, or damaged: each gets a sentence with the way out."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from streamer.errors import OutputError, WeightsError
from streamer.models.checkpoints import LoraFile, load_checkpoint, locate, recognise
from streamer.models.checkpoints.convert import convert
from tests.models.published import (
    CONFIG,
    LAYOUTS,
    State,
    diffusers_names,
    empty,
    prefixed,
    tiny,
    write_shards,
)


def load(path: Path, **options: object) -> None:
    load_checkpoint(empty(), "transformer", [path], **options)  # type: ignore[arg-type]


def state() -> State:
    return dict(tiny().state_dict())


# ---- weights of another use ---------------------------------------------------------------------


def ode(folder: Path) -> Path:
    torch.save({"generator": state()}, folder / "ode_init.pt")
    return folder / "ode_init.pt"


def teacher(folder: Path) -> Path:
    place = write_shards(state(), folder / "Wan2.1-T2V-1.3B")
    (place / "config.json").write_text(json.dumps({"_class_name": "WanModel"}))
    return place


def diffusers_teacher(folder: Path) -> Path:
    write_shards(diffusers_names(state()), folder / "wan" / "transformer")
    about = json.dumps({"_class_name": "WanTransformer3DModel"})
    (folder / "wan" / "transformer" / "config.json").write_text(about)
    return folder / "wan"


def bidirectional(folder: Path) -> Path:
    (folder / "bidirectional_checkpoint2").mkdir()
    torch.save({"generator": prefixed(state())}, folder / "bidirectional_checkpoint2" / "model.pt")
    return folder / "bidirectional_checkpoint2" / "model.pt"


def image_to_video(folder: Path) -> Path:
    extra = {
        "blocks.0.cross_attn.k_img.weight": torch.zeros(32, 32),
        "img_emb.proj.1.weight": torch.zeros(32, 32),
    }
    save_file(state() | extra, folder / "causal_model.safetensors")
    return folder / "causal_model.safetensors"


def image_channels(folder: Path) -> Path:
    wide = {"patch_embedding.weight": torch.zeros(32, 36, 1, 2, 2)}
    save_file(state() | wide, folder / "causal_model.safetensors")
    return folder / "causal_model.safetensors"


def critic(folder: Path) -> Path:
    torch.save({"critic": prefixed(state())}, folder / "model.pt")
    return folder / "model.pt"


def vace(folder: Path) -> Path:
    save_file(state() | {"vace_blocks.0.x": torch.zeros(1)}, folder / "causal.safetensors")
    return folder / "causal.safetensors"


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (ode, r"ODE initialisation .*ode_init\.pt.*take the finished checkpoint"),
        (teacher, r"bidirectional text-to-video \(a teacher\).*config\.json beside it says WanM"),
        (diffusers_teacher, r"bidirectional .*says WanTransformer3DModel.*40 to 50 steps"),
        (bidirectional, r"bidirectional .*name is bidirectional_checkpoint2/model\.pt"),
        (image_to_video, "image-to-video .*cross-attention to an image.*text-to-video checkpoint"),
        (image_channels, "image-to-video .*reads 36 channels"),
        (critic, "critic of a training .*take the distilled generator"),
        (vace, "control blocks of VACE"),
    ],
)
def test_weights_that_make_no_stream_are_named_and_refused(
    write: Callable[[Path], Path], says: str, tmp_path: Path
):
    with pytest.raises(WeightsError, match=says):
        load(write(tmp_path))


@pytest.mark.parametrize("write", [ode, teacher, bidirectional])
def test_evidence_beside_the_tensors_can_be_overruled(
    write: Callable[[Path], Path], tmp_path: Path
):
    path = write(tmp_path)
    with pytest.raises(WeightsError, match="assume_causal to true"):
        load(path)
    load(path, assume_causal=True)


@pytest.mark.parametrize("write", [image_to_video, critic])
def test_evidence_in_the_tensors_cannot(write: Callable[[Path], Path], tmp_path: Path):
    with pytest.raises(WeightsError):
        load(write(tmp_path), assume_causal=True)


def vae_file(folder: Path) -> Path:
    marks = {"decoder.middle.0.residual.0.gamma": torch.ones(4, 1, 1, 1)}
    path = folder / "Wan2.1_VAE.pth"
    torch.save(marks | {"encoder.conv1.weight": torch.zeros(24, 3, 3, 3, 3)}, path)
    return path


def clip_file(folder: Path) -> Path:
    path = folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    torch.save({"visual.patch_embedding.weight": torch.zeros(1)}, path)
    return path


def lora_file(folder: Path) -> Path:
    path = folder / "lora.safetensors"
    half = "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {
            f"{half}.lora_A.weight": torch.zeros(4, 32),
            f"{half}.lora_B.weight": torch.zeros(32, 4),
        },
        path,
    )
    return path


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (vae_file, r"Wan2\.1_VAE\.pth: holds a Wan VAE, wanted a Wan transformer"),
        (clip_file, "holds a CLIP image encoder, wanted a Wan transformer; .*image-to-video"),
        (lora_file, "holds a LoRA, wanted a Wan transformer; .*model.transformer.loras"),
    ],
)
def test_another_network_is_named(write: Callable[[Path], Path], says: str, tmp_path: Path):
    with pytest.raises(WeightsError, match=says):
        load(write(tmp_path))


def test_a_pruned_vae_is_told_from_the_published_one(tmp_path: Path):
    assert recognise([vae_file(tmp_path)]).title == "Wan2.1 VAE, pruned to width 24 (LightVAE)"


def test_unknown_tensors_are_shown(tmp_path: Path):
    save_file({"layers.0.w": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"none of the networks known here.*layers\.0\.w"):
        load(tmp_path / "model.safetensors")


# ---- tensors that do not fit --------------------------------------------------------------------


def changed(**tensors: torch.Tensor | None) -> State:
    """The state with some tensors replaced or (None) left out; `__` stands for a dot."""
    made = state()
    for key, tensor in tensors.items():
        name = key.replace("__", ".")
        if tensor is None:
            del made[name]
        else:
            made[name] = tensor
    return made


NAN = torch.full((32,), float("nan"))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (changed(head__head__bias=None), r"causal\.pt: head\.head\.bias is missing"),
        (changed(ema=torch.zeros(1)), r"causal\.pt: ema is unknown to this model"),
        (
            changed(blocks__1__norm3__bias=torch.zeros(33)),
            r"blocks\.1\.norm3\.bias is \(33,\), the config needs \(32,\)",
        ),
        (changed(blocks__1__norm3__bias=NAN), r"blocks\.1\.norm3\.bias holds numbers that are not"),
        (
            changed(blocks__1__norm3__bias=NAN * 0 + float("inf")),
            "not finite; the file is damaged, or was saved from a training that failed",
        ),
        (
            changed(patch_embedding__weight=torch.zeros(32, 48, 1, 2, 2)),
            r"\(32, 48, 1, 2, 2\).*reads 48 channels; is it of Wan2\.2",
        ),
        (
            changed(head__head__bias=torch.zeros(64, dtype=torch.float8_e4m3fn)),
            r"head\.head\.bias is stored in 8-bit floats.*bfloat16",
        ),
        (
            changed(head__head__bias=torch.zeros(64, dtype=torch.int8)),
            r"head\.head\.bias is int8 and head\.head\.bias\.scale does not fit it",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tensors: State, says: str, tmp_path: Path):
    torch.save(tensors, tmp_path / "causal.pt")
    with pytest.raises(WeightsError, match=says):
        load(tmp_path / "causal.pt")


def test_a_model_of_another_size_is_named(tmp_path: Path):
    other = tiny(config=replace(CONFIG, width=64, ffn_width=96))
    torch.save(other.state_dict(), tmp_path / "causal.pt")
    with pytest.raises(WeightsError, match=r"\(32, 16, 1, 2, 2\) \(\d+ tensors differ\); the file"):
        load(tmp_path / "causal.pt")


def test_fewer_and_more_layers_are_told_apart(tmp_path: Path):
    torch.save(tiny(config=replace(CONFIG, num_layers=2)).state_dict(), tmp_path / "causal.pt")
    with pytest.raises(WeightsError, match="the file has 2 layers; is it of a smaller model"):
        load(tmp_path / "causal.pt")
    torch.save(tiny(config=replace(CONFIG, num_layers=4)).state_dict(), tmp_path / "causal.pt")
    with pytest.raises(WeightsError, match="unknown to this model; is it of a larger model"):
        load(tmp_path / "causal.pt")


def test_the_same_tensor_under_two_names_is_refused(tmp_path: Path):
    torch.save(state() | {"model.head.head.bias": torch.zeros(64)}, tmp_path / "causal.pt")
    with pytest.raises(WeightsError, match="are the same tensor under two names"):
        load(tmp_path / "causal.pt")


# ---- damaged and foreign files ------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.4, 0.999])
@pytest.mark.parametrize("layout", ["causal_model.pt", "causal_model.safetensors"])
def test_a_file_that_was_cut_short_is_named(layout: str, kept: float, tmp_path: Path):
    path = LAYOUTS[layout](state(), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(WeightsError, match=rf"{path.name}: damaged.*fetch it again"):
        load(path)


def test_a_header_that_is_no_json_is_named(tmp_path: Path):
    path = LAYOUTS["causal_model.safetensors"](state(), tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[20:40] = b"\xff" * 20
    path.write_bytes(bytes(damaged))
    with pytest.raises(WeightsError, match="damaged: its header is no valid JSON"):
        load(path)


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"gone\.pt: there is no such weights file"):
        load(tmp_path / "gone.pt")
    with pytest.raises(WeightsError, match="holds no transformer, only: no weights at all"):
        load(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path):
    folder = write_shards(state(), tmp_path / "causal")
    (folder / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"names the shard .*00002-of-00003.*not finished"):
        load(folder)
    folder = write_shards(state(), tmp_path / "causal2", index=False)
    (folder / "diffusion_pytorch_model-00003-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"00003-of-00003.*is not there.*one of 3 shards"):
        load(folder)


def test_one_shard_of_several_is_no_model(tmp_path: Path):
    folder = write_shards(state(), tmp_path / "causal")
    with pytest.raises(WeightsError, match="one of 3 shards"):
        load(folder / "diffusion_pytorch_model-00001-of-00003.safetensors")


def test_an_index_of_another_download_is_named(tmp_path: Path):
    folder = write_shards(state(), tmp_path / "causal")
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    tree = json.loads(index.read_text())
    tree["weight_map"]["blocks.9.x"] = next(iter(tree["weight_map"].values()))
    index.write_text(json.dumps(tree))
    with pytest.raises(WeightsError, match=r"puts blocks\.9\.x into .*different downloads"):
        load(folder)


def test_a_git_lfs_pointer_and_a_web_page_are_named(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5676070424\n")
    with pytest.raises(WeightsError, match="is a Git LFS pointer, not the weights; run `git lfs"):
        load(path)
    path.write_text("<!doctype html><html><body>Sign in</body></html>")
    with pytest.raises(WeightsError, match="is a web page, not weights"):
        load(path)


class Payload:
    """What a hostile pickle would run."""

    ran = False

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('ran').touch()",)


def test_code_in_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"generator": state(), "x": Payload()}, tmp_path / "causal.pt")
    with pytest.raises(WeightsError, match=r"holds more than tensors .*eval.*is not run"):
        load(tmp_path / "causal.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(WeightsError, match="more than tensors"):
        load(tmp_path / "plain.pt")
    assert not (tmp_path / "ran").exists()


def test_settings_of_a_training_beside_the_tensors_are_named(tmp_path: Path):
    torch.save({"generator": state(), "args": argparse.Namespace(x=1)}, tmp_path / "causal.pt")
    with pytest.raises(WeightsError, match=r"argparse\.Namespace.*save its state_dict alone"):
        load(tmp_path / "causal.pt")


def test_files_from_before_pytorch_1_6_still_load(tmp_path: Path):
    torch.save(state(), tmp_path / "causal.pt", _use_new_zipfile_serialization=False)
    load(tmp_path / "causal.pt")


def test_a_pickle_of_something_else_is_named(tmp_path: Path):
    torch.save([torch.zeros(1)], tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="holds a list, expected a dictionary of tensors"):
        load(tmp_path / "a.pt")
    torch.save({"step": 1}, tmp_path / "b.pt")
    with pytest.raises(WeightsError, match="holds no tensors"):
        load(tmp_path / "b.pt")
    torch.save({"generator": state()}, tmp_path / "causal.pt")
    with pytest.raises(WeightsError, match="no network under 'generator_ema'; it holds generator"):
        load(tmp_path / "causal.pt", nest="generator_ema")


def test_two_stream_models_in_a_folder_must_be_named(tmp_path: Path):
    save_file(state(), tmp_path / "causal_a.safetensors")
    save_file(state(), tmp_path / "causal_b.safetensors")
    with pytest.raises(WeightsError, match=r"holds 2 that would do: .*causal_a.*name one"):
        locate([tmp_path], "transformer")


# ---- LoRA ---------------------------------------------------------------------------------------


def with_lora(folder: Path, tensors: State) -> None:
    base = LAYOUTS["causal_model.pt"](state(), folder)
    save_file(tensors, folder / "lora.safetensors")
    load(base, loras=[LoraFile(folder / "lora.safetensors")])


Q = "diffusion_model.blocks.0.self_attn.q"


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({f"{Q}.lora_A.weight": torch.zeros(4, 32)}, "lora_A.weight lacks its other half"),
        (
            {f"{Q}.lora_A.weight": torch.zeros(4, 64), f"{Q}.lora_B.weight": torch.zeros(64, 4)},
            r"is \(64, 64\), the model's tensor \(32, 32\).*another size",
        ),
        (
            {f"{Q}.lora_A.weight": torch.zeros(4, 32), f"{Q}.lora_B.weight": torch.zeros(32, 5)},
            "has rank 4, .*lora_B.weight 5",
        ),
        (
            {
                f"{Q}.lora_A.weight": torch.full((4, 32), float("nan")),
                f"{Q}.lora_B.weight": torch.ones(32, 4),
            },
            "the change of blocks.0.self_attn.q.weight is not finite",
        ),
        (
            {
                "diffusion_model.blocks.9.self_attn.q.lora_A.weight": torch.zeros(4, 32),
                "diffusion_model.blocks.9.self_attn.q.lora_B.weight": torch.zeros(32, 4),
            },
            "changes a part that the model does not have; is it for another model",
        ),
        (
            {
                "diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight": torch.zeros(4, 32),
                "diffusion_model.blocks.0.cross_attn.k_img.lora_B.weight": torch.zeros(32, 4),
            },
            "it is for an image-to-video model",
        ),
    ],
)
def test_a_lora_that_does_not_fit_is_named(tensors: State, says: str, tmp_path: Path):
    with pytest.raises(WeightsError, match=says):
        with_lora(tmp_path, tensors)


def test_a_folder_without_a_lora_is_named(tmp_path: Path):
    base = LAYOUTS["causal_model.pt"](state(), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"no adapter_model\.safetensors"):
        load(base, loras=[LoraFile(tmp_path / "empty")])


# ---- converting ---------------------------------------------------------------------------------


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path: Path):
    broken = changed(blocks__2__norm3__bias=NAN)
    torch.save(broken, tmp_path / "causal.pt")
    target = tmp_path / "out" / "model.safetensors"
    with pytest.raises(WeightsError, match="not finite"):
        convert(locate([tmp_path / "causal.pt"], "transformer"), target)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    path = LAYOUTS["causal_model.pt"](state(), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        convert(locate([path], "transformer"), tmp_path / "file" / "model.safetensors")


def test_a_lora_alone_is_not_converted(tmp_path: Path):
    with pytest.raises(WeightsError, match="a LoRA alone is no model"):
        convert(recognise([lora_file(tmp_path)]), tmp_path / "model.safetensors")
