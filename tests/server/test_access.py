"""Hosts, origins, tokens and rates."""

from __future__ import annotations

import pytest

from streamer.errors import BusyError, NotDirectorError
from streamer.server.access import Guard, Place, Rate, bearer, is_loopback, require_token

LAPTOP = Guard("127.0.0.1")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", None),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1:8000", "http://localhost:8000"),
        ("localhost:8000", "http://127.0.0.1:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("localhost", "http://localhost"),
    ],
)
def test_the_own_page_and_programs_are_welcome(host: str, origin: str | None) -> None:
    assert LAPTOP.refusal("http", host, origin) is None


@pytest.mark.parametrize(
    ("host", "origin", "reason"),
    [
        ("127.0.0.1:8000", "http://evil.example", "may not use"),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", "may not use"),
        ("127.0.0.1:8000", "http://localhost.evil.example:8000", "may not use"),
        ("127.0.0.1:8000", "null", "may not use"),
        ("127.0.0.1:8000", "file://", "may not use"),
        ("127.0.0.1:8000", "http://[half", "may not use"),
        ("rebound.example:8000", "http://rebound.example:8000", "answers on 127.0.0.1 only"),
        ("rebound.example:8000", None, "answers on 127.0.0.1 only"),
        ("", None, "names no host"),
        ("me@127.0.0.1", None, "names no host"),
        ("127.0.0.1:port", None, "names no host"),
    ],
)
def test_foreign_pages_and_rebound_names_are_refused(
    host: str, origin: str | None, reason: str
) -> None:
    assert reason in (LAPTOP.refusal("http", host, origin) or "")


def test_a_listed_origin_is_welcome_also_through_its_own_name() -> None:
    guard = Guard("127.0.0.1", ["https://studio.example"])
    assert guard.refusal("http", "127.0.0.1:8000", "https://studio.example") is None
    assert guard.refusal("http", "studio.example", "https://studio.example") is None
    assert guard.refusal("http", "127.0.0.1:8000", "http://studio.example") is not None


def test_a_server_for_the_network_answers_to_every_name_but_to_its_own_page_only() -> None:
    guard = Guard("0.0.0.0")
    assert guard.refusal("http", "box.lan:8000", "http://box.lan:8000") is None
    assert guard.refusal("http", "box.lan:8000", "http://other.lan:8000") is not None


def test_a_socket_and_its_page_are_the_same_place() -> None:
    assert Place.of_host_header("example.org", "wss") == Place.of_url("https://example.org")


def test_only_names_of_this_machine_are_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]")))
    assert not any(map(is_loopback, ("127.0.0.1.evil.example", "10.0.0.1", "")))


def test_a_rate_allows_a_burst_then_so_many_a_second() -> None:
    now = [0.0]
    rate = Rate(per_s=10, burst=20, clock=lambda: now[0])
    for _ in range(20):
        rate.take("changes")
    with pytest.raises(BusyError, match=r"too many changes at once; try again in 0\.1 s"):
        rate.take("changes")
    now[0] += 0.1
    rate.take("changes")
    with pytest.raises(BusyError):
        rate.take("changes")


def test_only_the_right_token_directs() -> None:
    require_token("secret", "secret")
    for wrong in (None, "", "Secret", "sécret"):
        with pytest.raises(NotDirectorError):
            require_token(wrong, "secret")


def test_a_bearer_header_gives_its_token() -> None:
    assert bearer("Bearer abc") == bearer("bearer  abc ") == "abc"
    assert bearer(None) is bearer("Basic abc") is bearer("Bearer ") is None
