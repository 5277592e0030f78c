"""Who may talk to this server: hosts, origins, tokens and rates.  Pure decisions on values."""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from streamer.errors import BusyError, NotDirectorError

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


@dataclass(frozen=True)
class Place:
    """A host and a port; the names of this very machine count as one."""

    host: str
    port: int | None

    @classmethod
    def of_url(cls, url: str) -> Place | None:
        """The place an origin or address names; None when it names none."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            return None
        if not host or parts.scheme not in _DEFAULT_PORTS:
            return None
        return cls(_one_name(host), port or _DEFAULT_PORTS[parts.scheme])

    @classmethod
    def of_host_header(cls, header: str, scheme: str) -> Place | None:
        """The place a Host header names; None when it names none."""
        if not header or "/" in header or "@" in header:
            return None
        return cls.of_url(f"{scheme}://{header}")


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this very machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Guard:
    """Decides by the headers whether a request may be answered at all.

    bound_host: where the server listens.  allowed_origins: further pages that may use it, such as
    `https://studio.example`.
    """

    bound_host: str
    allowed_origins: Sequence[str] = ()

    def refusal(self, scheme: str, host_header: str, origin: str | None) -> str | None:
        """Why the request is refused, as a sentence; None when it is welcome.

        A page of another site must not steer this server (its Origin differs), and a name that
        some DNS server made to point at this machine must not reach it (its Host differs).
        Programs that are no browser send no Origin and are welcome.
        """
        allowed = {Place.of_url(each) for each in self.allowed_origins} - {None}
        here = Place.of_host_header(host_header, scheme)
        if here is None:
            return f"the Host header {host_header!r} names no host"
        if is_loopback(self.bound_host) and here.host not in (
            "localhost",
            *(each.host for each in allowed if each),
        ):
            return (
                f"this server answers on {self.bound_host} only, not as {here.host!r}; "
                "add the page's address to server.allowed_origins"
            )
        if origin is None:
            return None
        there = Place.of_url(origin)
        if there is None or there not in {here, *allowed}:
            return f"the page {origin!r} may not use this server; see server.allowed_origins"
        return None


@dataclass
class Rate:
    """A token bucket: so many events a second, with a burst."""

    per_s: float = 10.0
    burst: int = 20
    clock: Callable[[], float] = time.monotonic
    _left: float = field(init=False)
    _then_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._left, self._then_s = float(self.burst), self.clock()

    def take(self, what: str) -> None:
        """Count one event.  Raises BusyError when they come too fast."""
        now_s = self.clock()
        self._left = min(self.burst, self._left + (now_s - self._then_s) * self.per_s)
        self._then_s = now_s
        if self._left < 1:
            wait_s = (1 - self._left) / self.per_s
            raise BusyError(f"too many {what} at once; try again in {wait_s:.1f} s")
        self._left -= 1


def new_token() -> str:
    """A secret that makes its holder the director of a stream."""
    return secrets.token_urlsafe(24)


def require_token(given: str | None, expected: str) -> None:
    """Raise NotDirectorError unless the token is the right one."""
    if given is None:
        raise NotDirectorError("only the director may do this; send the stream's token")
    if not secrets.compare_digest(given.encode(), expected.encode()):
        raise NotDirectorError("the token is not that of this stream")


def bearer(authorization: str | None) -> str | None:
    """The token of an `Authorization: Bearer ...` header."""
    kind, _, token = (authorization or "").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


def _one_name(host: str) -> str:
    return "localhost" if is_loopback(host) else host.lower()
