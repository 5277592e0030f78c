"""The messages: one example of each goes through unchanged, everything else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from streamer.errors import MessageError
from streamer.server import protocol
from streamer.server.protocol import ClientMessage, ServerMessage, decode_client, decode_server

EXAMPLES = json.loads((Path(__file__).parents[1] / "data" / "protocol.json").read_text())
CLIENT, SERVER = EXAMPLES["client"], EXAMPLES["server"]


def kinds(union: Any) -> set[str]:
    return {message.model_fields["type"].default for message in get_args(get_args(union)[0])}


def test_there_is_an_example_of_every_message() -> None:
    assert set(CLIENT) == kinds(ClientMessage)
    assert set(SERVER) == kinds(ServerMessage)


@pytest.mark.parametrize("kind", CLIENT)
def test_a_client_message_goes_through_unchanged(kind: str) -> None:
    message = decode_client(json.dumps(CLIENT[kind]))
    assert json.loads(protocol.encode(message)) == CLIENT[kind]


@pytest.mark.parametrize("kind", SERVER)
def test_a_server_message_goes_through_unchanged(kind: str) -> None:
    message = decode_server(json.dumps(SERVER[kind]))
    assert json.loads(protocol.encode(message)) == SERVER[kind]


@pytest.mark.parametrize("kind", CLIENT)
def test_an_unknown_field_is_refused_by_name(kind: str) -> None:
    with pytest.raises(MessageError, match="widht"):
        decode_client(json.dumps({**CLIENT[kind], "widht": 1}))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "message"),
        ("{", "message"),
        ("[]", "message"),
        ("null", "message"),
        ("{}", "message"),
        ('{"type": "dance"}', "message"),
        ('{"type": "welcome"}', "message"),
        ('{"type": "hello"}', "version"),
        ('{"type": "hello", "version": "1"}', "version"),
        ('{"type": "hello", "version": 1.5}', "version"),
        ('{"type": "ping", "id": -1}', "id"),
        ('{"type": "ping", "id": true}', "id"),
        ('{"type": "set_seed", "seed": 9007199254740992}', "seed"),
        ('{"type": "set_prompt", "prompt": "snow"}', "prompt"),
        ('{"type": "set_prompt", "prompt": {"id": "a b", "text": "snow"}}', "prompt.id"),
        ('{"type": "set_prompt", "prompt": {"id": "p", "text": 7}}', "prompt.text"),
        (
            '{"type": "set_prompt", "prompt": {"id": "p", "text": "x", '
            '"transition": {"kind": "melt"}}}',
            "transition.kind",
        ),
        (
            '{"type": "set_prompt", "prompt": {"id": "p", "text": "x", '
            '"transition": {"kind": "blend", "blocks": 65}}}',
            "transition.blocks",
        ),
        ('{"type": "shown", "prompt_id": "p", "latency_ms": -1}', "latency_ms"),
        (json.dumps({"type": "offer", "sdp": "v" * 60_001}), "sdp"),
        ("[" * 100_000, "message"),
    ],
)
def test_a_bad_message_is_refused_and_the_fault_is_named(text: str, named: str) -> None:
    with pytest.raises(MessageError, match=named):
        decode_client(text)
