"""LightX2V's configuration files: accepted as they are, corrected with a warning, or refused."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from streamer.config import Config, load_config
from streamer.errors import ConfigError
from streamer.lightx2v import is_lightx2v, timestep_of_index, translate

CAUSVID: dict[str, Any] = {
    "infer_steps": 9,
    "target_video_length": 81,
    "target_height": 480,
    "target_width": 832,
    "self_attn_1_type": "flash_attn3",
    "cross_attn_1_type": "flash_attn3",
    "cross_attn_2_type": "flash_attn3",
    "sample_guide_scale": 6,
    "sample_shift": 8,
    "enable_cfg": False,
    "cpu_offload": False,
    "num_fragments": 3,
    "num_frames": 21,
    "num_frame_per_block": 3,
    "num_blocks": 7,
    "frame_seq_length": 1560,
    "denoising_step_list": [999, 934, 862, 756, 603, 410, 250, 140, 74],
}
"""configs/causvid/wan_t2v_causvid.json, word for word."""

SELF_FORCING: dict[str, Any] = {
    "infer_steps": 4,
    "target_video_length": 81,
    "text_len": 512,
    "target_height": 480,
    "target_width": 832,
    "self_attn_1_type": "sage_attn2",
    "cross_attn_1_type": "sage_attn2",
    "cross_attn_2_type": "sage_attn2",
    "sample_guide_scale": 1,
    "sample_shift": 5.0,
    "enable_cfg": False,
    "cpu_offload": False,
    "dit_original_ckpt": "/Self-Forcing/checkpoints/self_forcing_dmd.pt",
    "causal_rope_type": "wan_causal_rope",
    "ar_config": {
        "local_attn_size": -1,
        "num_frame_per_chunk": 3,
        "timesteps_index": [0, 179, 358, 679],
        "kv_offload": False,
        "async_vae_decode": True,
    },
}
"""configs/self_forcing/wan_t2v_sf.json, word for word."""


@pytest.fixture
def read(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def read(tree: dict[str, Any], **changed: Any) -> tuple[Config, str]:
        """The configuration that a file means, and what was said while reading it."""
        path = tmp_path / "wan_t2v_causvid.json"
        path.write_text(json.dumps(tree | changed))
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="streamer.config"):
            config = load_config(path)
        return config, "\n".join(caplog.messages)

    return read


def test_the_causvid_file_is_accepted_without_a_word(read):
    config, said = read(CAUSVID)
    assert said == ""
    stream, model = config.stream, config.model
    assert (stream.width, stream.height, stream.fps) == (832, 480, 16)
    assert (stream.num_frame_per_block, stream.window, stream.sink) == (3, 21, 0)
    sampler = model.sampler
    assert sampler.denoising_step_list == CAUSVID["denoising_step_list"]
    assert (sampler.warp, sampler.shift, sampler.guidance_scale) == (False, 8.0, 1.0)
    assert (model.transformer.width, model.transformer.num_layers) == (5120, 40)


def test_three_fragments_make_fourteen_seconds(read):
    """21 latent frames, and 18 new ones in each further fragment: 57, that is 225 pictures."""
    config, _ = read(CAUSVID)
    assert config.stream.clip_frames == 225
    assert read(CAUSVID, num_fragments=1)[0].stream.clip_frames == 81


def test_the_self_forcing_file_is_accepted_and_explained(read):
    config, said = read(SELF_FORCING)
    assert config.model.sampler.denoising_step_list == [999, 957, 899, 702]
    assert (config.model.sampler.warp, config.model.sampler.shift) == (False, 5.0)
    assert (config.stream.window, config.stream.clip_frames) == (21, 81)
    assert (config.model.transformer.width, config.model.transformer.num_layers) == (1536, 30)
    assert "1000, 937.5, 833.3, 625" in said
    assert "'sage_attn2' rounds to few bits; attention is exact here" in said
    assert "self_forcing_dmd.pt is not there" in said


def test_indices_mean_the_timesteps_that_their_runner_feeds():
    """Recorded from the reference implementation for shift 5."""
    assert [timestep_of_index(i, 5.0) for i in (0, 179, 358, 679)] == [999, 957, 899, 702]


def test_guidance_is_two_passes_where_it_is_enabled(read):
    assert read(CAUSVID, enable_cfg=True)[0].model.sampler.guidance_scale == 6.0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"frame_seq_length": 3600}, "frame_seq_length is 3600, .* has 1560 tokens; corrected"),
        ({"num_blocks": 9}, "num_blocks is 9, corrected to 7"),
        ({"infer_steps": 4}, "infer_steps is 4, the list has 9; the list counts"),
        ({"target_video_length": 49}, "num_frames 21 makes 81 pictures; num_frames counts"),
        ({"cpu_offload": True}, "cpu_offload has no effect"),
        ({"self_attn_1_type": "magic"}, "self_attn_1_type is 'magic', unknown here"),
        ({"feature_caching": "Tea"}, "feature_caching has no effect"),
    ],
)
def test_what_is_wrong_but_harmless_is_corrected_with_a_warning(
    read, changed: dict[str, Any], says: str
):
    config, said = read(CAUSVID, **changed)
    assert re.search(says, said), said
    assert config.stream.clip_frames == 225


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"num_frames": 20}, "num_frames 20 is no multiple of num_frame_per_block 3; choose 18"),
        ({"num_fragments": 0}, "num_fragments is 0, expected 1 or more"),
        ({"num_frames": "21"}, "num_frames is '21', expected a whole number"),
        ({"target_width": 830}, "830x480 pixels do not divide into tokens .*multiples of 16"),
        ({"dit_quantized": True, "dit_quant_scheme": "nvfp4"}, r"dit_quantized is true \(nvfp4\)"),
        ({"model_cls": "wan2.1"}, "model_cls is 'wan2.1'; causal models stream"),
        ({"task": "i2v"}, "task is 'i2v'; only 't2v' makes a stream"),
        ({"denoising_step_list": []}, "this file is of a bidirectional model"),
        ({"text_len": 256}, "text_len is 256; the models read 512"),
        ({"num_fragment": 2}, "num_fragment: not a key .* did you mean 'num_fragments'"),
        ({"ar_config": {"sink_sise": 3}}, "ar_config.sink_sise: not a key.*mean 'sink_size'"),
        ({"causal_rope_type": "other"}, "causal_rope_type is 'other'; known: wan_causal_rope"),
    ],
)
def test_what_would_change_the_picture_is_refused(read, changed: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        read(CAUSVID, **changed)


def test_the_other_decoders_and_loras_are_taken_over(read):
    config, _ = read(
        CAUSVID,
        use_lightvae=True,
        vae_path="/w/lightvae.safetensors",
        lora_configs=[{"path": "/w/a.safetensors", "strength": 0.5}],
    )
    assert config.model.decoder.kind == "lightvae"
    assert config.model.decoder.weights == "/w/lightvae.safetensors"
    assert config.model.transformer.loras[0].scale == 0.5
    assert read(CAUSVID, use_tae=True)[0].model.decoder.kind == "taehv"


def test_window_sink_and_context_noise_of_chunks_are_taken_over(read):
    chunked = SELF_FORCING["ar_config"] | {
        "local_attn_size": 12,
        "sink_size": 3,
        "context_noise": 40,
    }
    config, _ = read(SELF_FORCING, ar_config=chunked)
    assert (config.stream.window, config.stream.sink) == (12, 3)
    assert config.model.sampler.context_noise == 40.0


def test_a_list_of_timesteps_in_chunks_is_taken_as_it_is(read):
    chunked = {"denoising_step_list": [1000, 750, 500, 250], "num_frame_per_chunk": 3}
    config, _ = read(SELF_FORCING, ar_config=chunked)
    assert config.model.sampler.denoising_step_list == [1000, 750, 500, 250]
    assert config.model.sampler.warp is False


def test_our_own_files_are_not_taken_for_theirs():
    assert is_lightx2v(CAUSVID)
    assert not is_lightx2v({"name": "x", "family": "wan"})
    assert not is_lightx2v([])


# ---- --model-path -------------------------------------------------------------------------------


def wan_folder(folder: Path, **about: Any) -> Path:
    """The layout of a Wan folder, with empty files."""
    for name in (
        "Wan2.1_VAE.pth",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "google/umt5-xxl/spiece.model",
        "causvid_models/causal_model.pt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    if about:
        (folder / "config.json").write_text(json.dumps({"model_type": "t2v", **about}))
    return folder


def test_the_parts_are_found_in_the_folder_of_a_run(tmp_path: Path):
    folder = wan_folder(tmp_path / "Wan2.1-T2V-14B")
    (tmp_path / "wan_t2v_causvid.json").write_text(json.dumps(CAUSVID))
    model = load_config(tmp_path / "wan_t2v_causvid.json", folder).model
    assert model.transformer.weights == [str(folder)]
    assert model.decoder.weights == str(folder / "Wan2.1_VAE.pth")
    assert model.text.weights == str(folder / "models_t5_umt5-xxl-enc-bf16.pth")
    assert model.text.tokenizer == str(folder / "google" / "umt5-xxl")


def test_the_folders_own_sizes_count(tmp_path: Path):
    about = {"dim": 1536, "num_heads": 12, "num_layers": 30, "ffn_dim": 8960}
    folder = wan_folder(tmp_path / "Wan2.1-T2V-1.3B", **about)
    tree = translate(CAUSVID, "c.json", folder).tree
    section = tree["model"]["transformer"]
    assert (section["width"], section["num_layers"], section["ffn_width"]) == (1536, 30, 8960)


def test_a_folder_of_another_task_is_named(tmp_path: Path):
    folder = wan_folder(tmp_path, dim=5120)
    (folder / "config.json").write_text(json.dumps({"model_type": "i2v", "dim": 5120}))
    with pytest.raises(ConfigError, match="holds a model for 'i2v'; name the folder"):
        translate(CAUSVID, "c.json", folder)


def test_a_shipped_configuration_finds_its_parts_in_one_folder(tmp_path: Path):
    for name in (
        "checkpoints/self_forcing_dmd.pt",
        "Wan2.1_VAE.pth",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "umt5-xxl/spiece.model",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    model = load_config("wan2.1-t2v-1.3b-self-forcing", tmp_path).model
    assert model.transformer.weights == [str(tmp_path / "checkpoints" / "self_forcing_dmd.pt")]
    assert model.text.tokenizer == str(tmp_path / "umt5-xxl")


def test_a_missing_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREAMER_MODELS", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"there is no Wan2\.1-T2V-1\.3B/Wan2\.1_VAE\.pth in it"):
        load_config("wan2.1-t2v-1.3b-self-forcing", tmp_path)
    with pytest.raises(ConfigError, match=r"--model-path .*there is no such folder"):
        load_config("wan2.1-t2v-1.3b-self-forcing", tmp_path / "gone")
    with pytest.raises(ConfigError, match="pattern has no weights: leave out --model-path"):
        load_config("pattern", tmp_path)
