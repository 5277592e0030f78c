"""What LightX2V's run_wan_t2v_causvid.sh did, in small: its file, a Wan folder, two prompts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from streamer.cli import with_negative_prompt
from streamer.config import load_config
from tests.commands.wan_folder import make_wan_folder
from tests.test_lightx2v import CAUSVID

SMALL = CAUSVID | {
    "target_width": 64,
    "target_height": 64,
    "num_fragments": 2,
    "num_frames": 6,
    "num_blocks": 2,
    "target_video_length": 21,
    "infer_steps": 2,
    "denoising_step_list": [999, 603],
}


def generate(folder: Path, out: Path, **changed: object) -> tuple[str, np.ndarray]:
    """Run the command in a process of its own; what it said, and the pictures."""
    file = out.with_suffix(".json")
    file.write_text(json.dumps(SMALL | changed))
    words = ["--config", str(file), "--model-path", str(folder), "--seed", "7", "--out", str(out)]
    words += ["--prompt", "a red balloon over green hills", "--negative-prompt", "blurry"]
    done = subprocess.run(
        [sys.executable, "-m", "streamer", "generate", *words],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with av.open(str(out)) as clip:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)])
    return done.stderr, pictures


@pytest.mark.slow
def test_the_file_the_folder_and_two_prompts_make_a_clip(tmp_path: Path):
    """Fragments of 6 latent frames with one block carried over: 9 latent frames, 33 pictures."""
    folder = make_wan_folder(tmp_path / "Wan2.1-T2V-14B")
    said, pictures = generate(folder, tmp_path / "guided.mp4", enable_cfg=True)
    assert pictures.shape == (33, 64, 64, 3)
    assert pictures.std() > 1
    assert "frame_seq_length is 1560, a picture of 64x64 has 16 tokens; corrected" in said
    assert "--negative-prompt has no effect" not in said


def test_a_negative_prompt_without_guidance_is_said_to_have_no_effect(
    capsys: pytest.CaptureFixture[str],
):
    config = load_config("wan2.1-t2v-14b-causvid")
    assert with_negative_prompt(config, "blurry") is config
    assert "--negative-prompt has no effect: wan2.1-t2v-14b-causvid" in capsys.readouterr().err
    sampler = config.model.sampler.model_copy(update={"guidance_scale": 6.0})
    model = config.model.model_copy(update={"sampler": sampler})
    guided = with_negative_prompt(config.model_copy(update={"model": model}), "blurry")
    assert guided.model.sampler.negative_prompt == "blurry"
    assert capsys.readouterr().err == ""
