"""`streamer models`: list, inspect and convert, through the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from streamer.cli import main
from streamer.config import load_config
from streamer.models.cache import RingLayout
from streamer.models.checkpoints import load_checkpoint
from streamer.models.checkpoints.read import MOST_FILES, MOST_NAMES
from streamer.models.needs import needs, transformer_parameters
from streamer.models.rolling import RollingContext
from streamer.models.tiny_vae import TAEW2_1, TinyVAE
from streamer.models.transformer import CausalWanTransformer, TransformerConfig
from tests.models.published import LAYOUTS, empty, output, tiny


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["models", *map(str, words)])


@pytest.fixture(autouse=True)
def shelf(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder."""
    folder = tmp_path_factory.mktemp("models")
    monkeypatch.setenv("STREAMER_MODELS", str(folder))
    return folder


def test_the_list_names_size_steps_window_licence_memory_and_disk(shelf: Path):
    listed = run("list")
    assert listed.exit_code == 0
    lines = {line.split()[0]: line for line in listed.output.splitlines() if line}
    assert "832x480" in lines["wan2.1-t2v-14b-causvid"]
    assert "58.0 GiB  absent" in lines["wan2.1-t2v-14b-causvid"]
    assert "CC BY-NC-SA 4.0" in lines["wan2.1-t2v-1.3b-longlive"]
    assert "ready" in lines["storybook"]
    assert str(shelf) in listed.output


def test_the_list_says_what_is_missing(shelf: Path):
    file = shelf / "Self-Forcing" / "checkpoints" / "self_forcing_dmd.pt"
    file.parent.mkdir(parents=True)
    file.touch()
    entries = {entry["name"]: entry for entry in json.loads(run("list", "--json").output)}
    entry = entries["wan2.1-t2v-1.3b-self-forcing"]
    assert entry["on_disk"] == "partial"
    assert str(file) not in entry["missing"]
    assert any("Wan2.1_VAE.pth" in path for path in entry["missing"])
    assert entry["steps"] == 4
    assert entry["download_bytes"] > 17e9


def test_a_file_is_inspected(tmp_path: Path):
    path = LAYOUTS["Self-Forcing generator_ema"](tiny().state_dict(), tmp_path)
    shown = run("inspect", path)
    assert "causal (a stream model)" in shown.output
    assert "under 'generator_ema' of ['generator', 'generator_ema']" in shown.output
    assert "fits no shipped configuration; write one with width 32" in shown.output
    about = json.loads(run("inspect", path, "--json").output)[0]
    assert (about["kind"], about["role"], about["refused"]) == ("transformer", "stream", "")
    assert about["parameters"] == sum(t.numel() for t in tiny().state_dict().values())


def test_a_folder_is_inspected_whole(tmp_path: Path):
    LAYOUTS["causvid_models folder"](tiny().state_dict(), tmp_path)
    (tmp_path / "Wan2.1-T2V-14B" / "broken.pt").write_bytes(b"PK\x03\x04nothing")
    shown = run("inspect", tmp_path / "Wan2.1-T2V-14B")
    assert "bidirectional text-to-video (a teacher)" in shown.output
    assert "makes no stream" in shown.output
    assert "causal (a stream model)" in shown.output
    assert "not read" in shown.output


def test_a_file_of_published_size_names_its_configurations(tmp_path: Path):
    """The 1.3B by its widths; only the tensors that tell them are written."""
    path = tmp_path / "self_forcing_dmd.pt"
    with torch.device("meta"):
        model = CausalWanTransformer(TransformerConfig.wan_1_3b())
    small = {name: torch.zeros(1).expand(t.shape) for name, t in model.state_dict().items()}
    torch.save({"generator_ema": small}, path)
    about = json.loads(run("inspect", path, "--json").output)[0]
    assert about["is"] == "Wan2.1 1.3B transformer, causal (a stream model)"
    assert about["fits"][0] == "wan2.1-t2v-1.3b-self-forcing"
    assert len(about["fits"]) == 4


def test_a_small_decoder_names_the_configurations_that_turn_to_it(tmp_path: Path):
    path = tmp_path / "taew2_1.pth"
    with torch.device("meta"):
        names = TinyVAE(TAEW2_1).state_dict()
    torch.save({name: torch.zeros(1).expand(t.shape) for name, t in names.items()}, path)
    about = json.loads(run("inspect", path, "--json").output)[0]
    assert about["is"] == "TAEHV tiny autoencoder"
    assert "wan2.1-t2v-1.3b-self-forcing" in about["fits"]
    assert "storybook" not in about["fits"]


def test_a_folder_that_is_no_models_is_not_searched_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[object] = []
    monkeypatch.setattr(torch, "load", opened.append)
    for number in range(MOST_FILES + 1):
        (tmp_path / f"{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"{number % 3}" / f"{number}.pt").touch()
    result = run("inspect", tmp_path)
    assert result.exit_code == 2
    assert f"holds more than {MOST_FILES} files of weights" in result.output
    (tmp_path / "0" / "0.pt").unlink()
    for number in range(MOST_NAMES - MOST_FILES - 2):
        (tmp_path / "1" / f"{number}.txt").touch()
    result = run("inspect", tmp_path)
    assert f"holds more than {MOST_NAMES} files and folders" in result.output
    assert "name the model's own folder" in result.output
    assert opened == []


def test_a_locked_folder_within_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    LAYOUTS["Self-Forcing generator_ema"](tiny().state_dict(), tmp_path)
    (tmp_path / "locked").mkdir()
    listing = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert "causal (a stream model)" in run("inspect", tmp_path).output
    monkeypatch.undo()
    monkeypatch.setattr(Path, "iterdir", lambda path: iterdir(path / "locked"))
    assert "cannot be read: Permission denied" in run("inspect", tmp_path).output


@pytest.mark.parametrize("words", [("inspect", "gone.pt"), ("inspect", "."), ("convert", "a", "b")])
def test_what_cannot_be_done_is_one_sentence(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2
    assert result.output.startswith("streamer: ")
    assert "Traceback" not in result.output


def test_a_conversion_carries_its_configuration_and_runs_from_it(tmp_path: Path):
    path = LAYOUTS["CausVid model.pt"](tiny().state_dict(), tmp_path)
    tree = load_config("wan2.1-t2v-1.3b-self-forcing").model_dump(mode="json")
    tree["model"]["transformer"] |= {
        "width": 32,
        "num_heads": 2,
        "num_layers": 3,
        "ffn_width": 48,
        "text_width": 16,
        "text_length": 4,
        "freq_width": 16,
    }
    (tmp_path / "my.json").write_text(json.dumps(tree))
    target = tmp_path / "my.safetensors"
    made = run("convert", path, target, "--config", tmp_path / "my.json", "--dtype", "bfloat16")
    assert made.exit_code == 0, made.output
    config = load_config(target)
    assert config.model.transformer.weights == [str(target)]
    model = empty(TransformerConfig.of(config.model.transformer))
    load_checkpoint(model, "transformer", [target])
    assert (output(model) - output(tiny())).abs().max() < 0.1
    assert load_file(target)["head.head.weight"].dtype == torch.bfloat16


def test_a_lora_is_merged_with_its_scale(tmp_path: Path):
    path = LAYOUTS["causal_model.pt"](tiny().state_dict(), tmp_path)
    name = "diffusion_model.blocks.0.self_attn.q"
    down, up = torch.ones(2, 32), torch.ones(32, 2)
    save_file(
        {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "l.safetensors"
    )
    target = tmp_path / "out.safetensors"
    made = run("convert", path, target, "--lora", tmp_path / "l.safetensors", "0.25")
    assert made.exit_code == 0, made.output
    key = "blocks.0.self_attn.q.weight"
    torch.testing.assert_close(load_file(target)[key], tiny().state_dict()[key] + 0.5)


def test_a_teacher_is_converted_only_on_demand(tmp_path: Path):
    folder = tmp_path / "bidirectional_checkpoint2"
    folder.mkdir()
    torch.save({"generator": tiny().state_dict()}, folder / "model.pt")
    target = tmp_path / "out.safetensors"
    refused = run("convert", folder / "model.pt", target)
    assert refused.exit_code == 2
    assert "bidirectional" in refused.output
    assert not target.exists()
    assert run("convert", folder / "model.pt", target, "--assume-causal").exit_code == 0


# ---- what a model needs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "cache_mib_per_frame"),
    [
        ("wan2.1-t2v-1.3b-self-forcing", 1_418_996_800, 274.2),
        ("wan2.1-t2v-14b-causvid", 14_288_491_584, 1218.75),
    ],
)
def test_needs_are_those_of_the_published_networks(
    name: str, parameters: int, cache_mib_per_frame: float
):
    config = load_config(name)
    section = config.model.transformer
    assert transformer_parameters(section) == parameters
    need = needs(config)
    text_slots = 2 * section.num_layers * section.text_length * section.width * 2
    # The window, and room for a block behind it.
    num_frames = config.stream.window + config.stream.num_frame_per_block
    frames = (need.cache - text_slots) / num_frames / (1 << 20)
    assert frames == pytest.approx(cache_mib_per_frame, rel=1e-3)


def test_a_cache_of_codes_needs_half_and_single_passes_no_room_behind():
    config = load_config("wan2.1-t2v-1.3b-self-forcing")
    model = config.model

    def cache(**changes: object) -> int:
        changed = model.model_copy(update=changes)
        return needs(config.model_copy(update={"model": changed})).cache

    section = model.transformer
    text_slots = 2 * section.num_layers * section.text_length * section.width * 2
    codes, numbers = cache(eight_bit_cache="int8") - text_slots, cache() - text_slots
    # A scale of four bytes for the 128 codes of a head.
    assert codes / numbers == pytest.approx((1 + 4 / 128) / 2)
    window, block = config.stream.window, config.stream.num_frame_per_block
    ratio = (cache(fused=False) - text_slots) / numbers
    assert ratio == pytest.approx(window / (window + block))


def test_needs_are_what_a_context_takes():
    config = load_config("storybook")
    model = config.model.model_copy(update={"eight_bit_cache": "fp8", "fused": True})
    section, stream = model.transformer, config.stream
    sizes = TransformerConfig.of(section)
    rows, columns = section.learned_grid
    shape = sizes.cache_shape(2 * rows, 2 * columns)
    layout = RingLayout(stream.window, stream.sink, stream.num_frame_per_block)
    context = RollingContext(
        shape, layout, kind=model.eight_bit_cache, spare_frames=stream.num_frame_per_block
    )
    text_slots = 2 * section.num_layers * section.text_length * section.width * 4
    need = needs(config.model_copy(update={"model": model}))
    assert need.cache - text_slots == context.ring.num_bytes


def test_every_shipped_transformer_is_counted_exactly():
    from streamer.commands.shelf import shelf

    sections = [entry.config.model.transformer for entry in shelf()]
    storybook = load_config("storybook").model.transformer
    sections.append(storybook.model_copy(update={"pooled_text": False, "text_canvas": 0}))
    for section in sections:
        with torch.device("meta"):
            model = CausalWanTransformer(TransformerConfig.of(section))
        assert transformer_parameters(section) == sum(p.numel() for p in model.parameters())
