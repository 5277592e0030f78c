"""The command line, run as its user runs it: a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import av
import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}


def streamer(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamer", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
        check=False,
    )


def generate(out: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return streamer("generate", "--config", "pattern", "--prompt", "red", "--out", out, *arguments)


@pytest.mark.parametrize(
    "command",
    [[], ["serve"], ["generate"], ["replay"], ["bench"], ["config"], ["config", "schema"],
     ["distill"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_explains_itself(command: list[str]):
    result = streamer(*command, "--help")
    assert result.returncode == 0, result.stderr
    assert "Usage:" in result.stdout


def test_a_clip_is_made_and_replayed_to_the_same_frames(tmp_path: Path):
    script = tmp_path / "script.jsonl"
    made = generate(
        tmp_path / "a.mp4", "--prompt-at", "2", "blue", "--seconds", "4.5", "--seed", "7",
        "--script", script, "--json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    summary = json.loads(made.stdout)
    assert (summary["frames"], summary["seed"], summary["fps"]) == (72, 7, 16)
    assert [(p["at_s"], p["text"]) for p in summary["prompts"]] == [(0.0, "red"), (2.25, "blue")]
    again = streamer("replay", script, "--out", tmp_path / "b.mp4")
    assert again.returncode == 0, again.stderr
    assert frames_of(tmp_path / "a.mp4") == frames_of(tmp_path / "b.mp4")


def frames_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompt", " "], "the prompt is empty"),
        (["--seconds", "0"], "--seconds is 0.0; it must be above 0"),
        (["--prompt-at", "99", "x"], "behind the end"),
        (["--config", "patern"], "did you mean 'pattern'?"),
    ],
)
def test_impossible_wishes_are_one_clear_line_and_leave_no_file(
    tmp_path: Path, arguments: list[str], says: str
):
    result = generate(tmp_path / "x.mp4", *arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "x.mp4").exists()


def test_an_unwritable_place_is_found_before_the_model_is_loaded(tmp_path: Path):
    result = generate(tmp_path / "missing" / "x.mp4")
    assert result.returncode == 2
    assert "cannot be written" in result.stderr
    assert "making" not in result.stderr


def test_ctrl_c_leaves_a_playable_clip(tmp_path: Path):
    out = tmp_path / "long.mp4"
    arguments = ["generate", "--config", "pattern", "--prompt", "red", "--seconds", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamer", *arguments, "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        while not out.exists() or out.stat().st_size < 20_000:
            assert process.poll() is None, process.stderr.read()
            os.sched_yield() if hasattr(os, "sched_yield") else None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "stopped" in stderr
    assert "Traceback" not in stderr
    assert len(frames_of(out)) > 12


def test_missing_weights_are_named_with_the_file(tmp_path: Path):
    tree = json.loads((ROOT / "configs" / "storybook.json").read_text())
    tree["model"]["transformer"]["weights"] = [str(tmp_path / "gone.safetensors")]
    config = tmp_path / "mine.json"
    config.write_text(json.dumps(tree))
    result = streamer("generate", "--config", config, "--prompt", "a", "--out", tmp_path / "x.mp4")
    assert result.returncode == 2
    assert "gone.safetensors" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_a_clear_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = streamer("serve", "--config", "pattern", "--port", port)
    assert result.returncode == 2
    assert port in result.stderr
    assert "Traceback" not in result.stderr


def test_the_schema_is_printed_as_json():
    assert json.loads(streamer("config", "schema").stdout)["title"] == "Config"


def test_serve_takes_what_the_section_server_has() -> None:
    from streamer.commands.serving import with_server
    from streamer.config import load_config

    config = with_server(
        load_config("pattern"),
        host=None,
        port=0,
        ice_servers=("stun:s.example", "turn:a:b@t.example"),
        publish=("https://sfu.example/whip/{stream}",),
        tls_cert=None,
    )
    assert config.server.port == 0
    assert config.server.host == "127.0.0.1"
    assert config.server.ice_servers == ["stun:s.example", "turn:a:b@t.example"]
    assert config.server.publish == ["https://sfu.example/whip/{stream}"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tls-cert", "only.pem"], "tls_cert and tls_key belong together"),
        (["--tls-cert", "none.pem", "--tls-key", "none.key"], "none.pem: cannot be read"),
        (["--ice-server", "turn:t.example"], "TURN needs credentials"),
        (["--publish", "sfu"], "no address to publish to"),
    ],
)
def test_serve_refuses_in_one_sentence_before_it_starts(arguments: list[str], said: str) -> None:
    result = streamer("serve", "--config", "pattern", "--port", "0", *arguments)
    assert result.returncode == 2
    assert said in result.stderr
