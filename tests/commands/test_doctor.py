"""`streamer doctor`: each check against a machine that is well, and one that is not."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from aioice import stun
from click.testing import CliRunner

from streamer.cli import main
from streamer.commands import checks
from streamer.config import Config, load_config
from tests.engine.tiny_model import make_tiny_config


@pytest.fixture
def config() -> Config:
    return load_config("storybook")


def with_server(config: Config, **changed: object) -> Config:
    return config.model_copy(update={"server": config.server.model_copy(update=changed)})


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10, 4), "fail"), ((3, 11, 0), "ok"), ((3, 13, 1), "ok")]
)
def test_pythons_version(version: tuple[int, ...], status: str):
    assert checks.check_python(version).status == status


@pytest.mark.parametrize(
    ("version", "status"),
    [("2.10.1", "fail"), ("2.11.0+cu130", "ok"), ("2.13.0+cpu", "ok"), ("2.14.0", "warn")],
)
def test_torchs_version(version: str, status: str):
    assert checks.check_torch(version).status == status


def test_memory_is_compared_with_what_a_stream_needs():
    """LongLive: 18.0 GiB in all, 7.4 without the text encoder."""
    config = load_config("wan2.1-t2v-1.3b-longlive")
    for free_gib, status in ((24, "ok"), (12, "warn"), (6, "fail")):
        check = checks.check_memory(config, free_gib << 30)
        assert check.status == status
        assert bool(check.way_out) == (status != "ok")


def test_missing_weights_name_the_command_that_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STREAMER_MODELS", str(tmp_path / "not" / "made"))
    check = checks.check_weights(load_config("wan2.1-t2v-14b-causvid"))
    assert check.status == "fail"
    assert "causal_model.pt and 3 more: not there" in check.found
    assert check.way_out.startswith("`streamer models pull wan2.1-t2v-14b-causvid` (40.5 GB")


def test_weights_are_looked_into(tmp_path: Path):
    (tmp_path / "decoder").mkdir()
    config = make_tiny_config(tmp_path)
    assert checks.check_weights(config).status == "ok"
    path = tmp_path / "transformer.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    check = checks.check_weights(config)
    assert check.status == "fail"
    assert "the download is not finished" in check.found


def test_encoders_are_tried():
    found = {check.name: check for check in checks.check_codecs()}
    assert found["codec H.264"].status == "ok"
    assert found["codec VP8"].status == "ok"
    assert checks._encodes("no_such_encoder") != ""


def test_a_port_in_use_is_named(config: Config):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = with_server(config, port=taken.getsockname()[1])
        check = checks.check_port(busy)
    assert (check.status, check.way_out) == ("fail", "choose another one with --port")
    assert checks.check_port(with_server(config, port=0)).status == "ok"


@pytest.fixture
def stun_server() -> Iterator[tuple[str, int]]:
    """Answers one Binding request, as RFC 8489 asks."""
    here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    here.bind(("127.0.0.1", 0))

    def answer() -> None:
        data, sender = here.recvfrom(2048)
        request = stun.parse_message(data)
        response = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.RESPONSE,
            transaction_id=request.transaction_id,
        )
        response.attributes["XOR-MAPPED-ADDRESS"] = sender
        here.sendto(bytes(response), sender)

    thread = threading.Thread(target=answer)
    thread.start()
    yield here.getsockname()
    thread.join()
    here.close()


def test_an_ice_server_that_answers(config: Config, stun_server: tuple[str, int]):
    served = with_server(config, ice_servers=[f"stun:127.0.0.1:{stun_server[1]}"])
    assert [check.status for check in checks.check_ice(served)] == ["ok", "ok"]


def test_an_ice_server_that_is_silent(config: Config):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"turn:127.0.0.1:{silent.getsockname()[1]}?transport=udp"
        check = list(checks.check_ice(with_server(config, ice_servers=[url]), 0.05))[-1]
    assert check.status == "fail"
    assert "no answer within" in check.found
    assert "firewall" in check.way_out


def test_without_ice_servers_the_reach_is_said(config: Config):
    assert "viewers within this machine" in list(checks.check_ice(config))[-1].found
    assert (
        "viewers within a LAN"
        in list(checks.check_ice(with_server(config, host="0.0.0.0")))[-1].found
    )


def test_attention_is_compared_with_its_definition():
    assert checks.check_attention(device="cpu").status == "ok"


def test_a_kernel_that_sees_slots_not_yet_written_is_found():
    def wrong(q, k, v, num_valid):
        return torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v))
        ).transpose(1, 2)

    check = checks.check_attention(wrong, "cpu")
    assert check.status == "fail"
    assert "do not use it" in check.way_out


def test_a_kernel_that_raises_is_a_finding():
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no kernel image")

    check = checks.check_attention(broken, "cpu")
    assert (check.status, "no kernel image" in check.found) == ("fail", True)


def test_the_command_says_all_in_order_and_in_json(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "check_port", lambda _: checks.Check("port", "ok", "free"))
    shown = CliRunner().invoke(main, ["doctor"])
    assert shown.exit_code == 0, shown.output
    assert "FAIL" not in shown.output
    tree = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).output)
    assert (tree["model"], tree["status"]) == ("storybook", "ok")
    names = [check["name"] for check in tree["checks"]]
    wanted = ["python", "torch", "device", "triton", "attention", "memory", "weights"]
    assert names[: len(wanted)] == wanted
    assert "codec H.264" in names


def test_a_failure_is_an_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREAMER_MODELS", str(tmp_path))
    result = CliRunner().invoke(main, ["doctor", "--config", "krea-realtime-14b", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.output)["status"] == "fail"
