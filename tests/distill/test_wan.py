"""The recipe of the published models, on a tiny Wan: every stage, from videos to an export."""

import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from streamer.config import load_config
from streamer.distill.kitchen import Kitchen
from streamer.distill.recipe import find_recipe, is_done, read_recipe
from streamer.distill.stored_clips import StoredClips, is_light
from streamer.distill.videos import find_videos, read_clips_of, read_prompts, trimmed
from streamer.distill.workshop import Workshop
from streamer.engine.parts import load_transformer
from streamer.errors import ConfigError, WeightsError
from streamer.models.transformer import CausalWanTransformer, TransformerConfig
from streamer.models.wan_vae import WanVAE, WanVAEConfig

SIZES = TransformerConfig(
    width=32, num_heads=2, ffn_width=48, num_layers=2, text_width=12, text_length=6, freq_width=16
)


class Texts:
    """Rows for each word of a text, and zeros behind them, as UMT5 gives."""

    text_length, text_width = 6, 12

    def encode(self, texts: Sequence[str]) -> Tensor:
        made = torch.zeros(len(texts), 6, 12)
        for row, text in enumerate(texts):
            for place, word in enumerate(text.split()[:6]):
                generator = torch.Generator().manual_seed(sum(map(ord, word)))
                made[row, place] = torch.randn(12, generator=generator)
        return made


def write_video(path: Path, num_frames: int, fps: int, width: int = 72, height: int = 40) -> None:
    """A picture that gets brighter from frame to frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(num_frames):
            pixels = np.full((height, width, 3), 40 + 8 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def material(tmp_path: Path) -> Path:
    """Weights of a tiny Wan, two videos with captions, one without, and prompts."""
    torch.manual_seed(0)
    network = CausalWanTransformer(SIZES)
    network.initialise()
    torch.nn.init.normal_(network.head.head.weight, std=0.05)
    save_file(dict(network.state_dict()), tmp_path / "diffusion_pytorch_model.safetensors")
    save_file(dict(WanVAE(WanVAEConfig(width=4)).state_dict()), tmp_path / "vae.safetensors")
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", 21, 16)
    (videos / "a.txt").write_text("a dog runs\n")
    write_video(videos / "b.mp4", 21, 16)
    (videos / "captions.jsonl").write_text('{"file": "b.mp4", "text": "the sea"}\n')
    write_video(videos / "c.mp4", 2, 16)
    (tmp_path / "prompts.txt").write_text("a cat\n\na boat on the sea\n")
    return tmp_path


def write_recipe(folder: Path) -> Path:
    """The shipped recipe of the 1.3B, with the sizes and counts of a toy and nothing else."""
    tree = json.loads(find_recipe("wan-1.3b").read_text())
    config = tree["config"]
    config["stream"] |= {
        "width": 64,
        "height": 64,
        "num_frame_per_block": 1,
        "window": 4,
        "sink": 1,
    }
    config["model"]["transformer"] |= {
        "width": 32, "num_heads": 2, "ffn_width": 48, "num_layers": 2,
        "text_width": 12, "text_length": 6, "freq_width": 16,
        "weights": [str(folder / "diffusion_pytorch_model.safetensors")],
    }  # fmt: skip
    config["model"]["decoder"]["weights"] = str(folder / "vae.safetensors")
    small = {
        "data": {"videos": str(folder / "videos"), "prompts": str(folder / "prompts.txt"),
                 "latents": 3},
        "trajectories": {"settings": {"num_shards": 2, "num_frames": 3, "num_steps": 4}},
        "ode": {"steps": 2},
        "dmd": {"steps": 2, "settings": {"blocks": [3, 3], "judged": [3, 3], "critic_updates": 2}},
        "long": {"steps": 3, "settings": {"blocks": [2, 3], "judged": [1, 2], "longest": 7,
                                          "critic_updates": 1}},
    }  # fmt: skip
    for stage in tree["stages"]:
        changes = small.get(stage.get("name") or stage["stage"], {})
        stage["settings"] = stage.get("settings", {}) | changes.pop("settings", {})
        if "trainer" in stage:
            stage["trainer"]["accumulate"] = 2
        stage |= changes
    # The teacher is there for those who have videos; the shipped recipe takes the published one.
    tree["stages"].insert(1, {
        "stage": "teacher", "shards": ["data"], "start": "config", "steps": 2,
        "checkpointing": True, "settings": {"clips": 2, "sheet_steps": 2, "muon_lr": 0.0},
    })  # fmt: skip
    path = folder / "recipe.json"
    path.write_text(json.dumps(tree))
    return path


def test_every_stage_runs_on_a_tiny_wan_and_its_export_loads(
    material: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Workshop, "load_encoder", lambda shop: Texts())
    torch.set_num_threads(1)
    source = write_recipe(material)
    recipe, out = read_recipe(source), material / "run"
    Kitchen(recipe, source, out, torch.device("cpu")).cook()
    assert all(is_done(out / stage.folder) for stage in recipe.stages)
    config = load_config(out / "export" / "model" / "config.json")
    assert config.model is not None
    made = load_transformer(config.model, torch.device("cpu"), lambda share, what: None)
    begun = load_file(material / "diffusion_pytorch_model.safetensors")
    moved = [(made.state_dict()[n].float() - t).abs().max().item() for n, t in begun.items()]
    # Learning rates of published models are tiny; still, the student has moved, and not far.
    assert 1e-7 < max(moved) < 0.1


def test_videos_become_clips_with_their_captions_and_prompts_become_texts(material: Path):
    captioned = find_videos(material / "videos")
    assert [(video.path.name, video.text) for video in captioned] == [
        ("a.mp4", "a dog runs"),
        ("b.mp4", "the sea"),
    ]
    assert read_prompts(material / "prompts.txt") == ["a cat", "a boat on the sea"]


def test_a_video_is_read_at_the_rate_and_size_of_the_stream(tmp_path: Path):
    write_video(tmp_path / "v.mp4", 20, 8)
    clips = list(read_clips_of(tmp_path / "v.mp4", 9, 32, 64, 16))
    assert len(clips) == 4  # 20 frames at 8 a second are 39 moments at 16
    assert clips[0].shape == (9, 3, 32, 64)
    levels = torch.cat(clips).float().mean((1, 2, 3))
    steps = levels.diff()
    # Each frame is shown twice, so every other step is flat; the rest is the video's own.
    assert steps[::2].abs().max() < 3
    assert steps[1::2].mean() == pytest.approx(8, abs=1.5)


def test_a_file_that_is_no_video_and_a_folder_without_captions_are_named(tmp_path: Path):
    (tmp_path / "x.mp4").write_bytes(b"not a video")
    with pytest.raises(ConfigError, match=r"x\.mp4: cannot be read as a video"):
        list(read_clips_of(tmp_path / "x.mp4", 3, 32, 64, 16))
    with pytest.raises(ConfigError, match="no video with a caption"):
        find_videos(tmp_path)
    (tmp_path / "captions.jsonl").write_text("x.mp4 a dog\n")
    with pytest.raises(ConfigError, match=r"captions\.jsonl:1"):
        find_videos(tmp_path)


def test_rows_of_zeros_behind_a_text_are_not_kept():
    rows = Texts().encode(["two words", ""])
    assert trimmed(rows[:1]).shape == (1, 2, 12)
    assert trimmed(rows[1:]).shape == (1, 1, 12)


def test_stored_clips_are_read_as_they_are_drawn(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    for number, length in enumerate((2, 4)):
        save_file(
            {
                "latents": torch.full((2, 3, 4, 2, 2), float(number)).half(),
                "text": torch.full((2, 1, length, 5), float(number + 1)).half(),
                "switch": torch.zeros(2, dtype=torch.int64),
                "begins": torch.ones(2, dtype=torch.bool),
            },
            tmp_path / f"clips-{number:05d}.safetensors",
        )
    assert is_light(tmp_path)
    save_file({"text": torch.full((3, 1, 1, 5), 9.0).half()}, tmp_path / "texts-00000.safetensors")
    assert not is_light(tmp_path)
    source = StoredClips([tmp_path], (4, 2, 2), 6)
    assert (len(source), source.num_frames) == (4, 3)
    clips = source.draw(16, generator)
    assert clips.text.shape == (16, 2, 6, 5)
    is_second = clips.latents[:, 0, 0, 0, 0] == 1
    assert 0 < is_second.sum() < 16
    # The shorter text of the first file has zeros behind it.
    assert (clips.text[~is_second][:, :, 2:] == 0).all()
    assert (clips.text[is_second][:, :, :4] == 2).all()
    told = source.draw_texts(64, generator)
    assert set(told[:, 0, 0].tolist()) == {1.0, 2.0, 9.0}
    with pytest.raises(WeightsError, match="latent frames of"):
        StoredClips([tmp_path], (4, 3, 3), 6)
    with pytest.raises(WeightsError, match="no shards"):
        StoredClips([tmp_path / "nowhere"], (4, 2, 2), 6)
