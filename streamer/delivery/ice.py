"""STUN and TURN servers as people write them, for this server and for its pages.

`stun:host[:port]`, `turn:user:password@host[:port][?transport=tcp]`, `turns:...`.  User and
password are percent-encoded where they hold `:`, `@` or `/`.  RFC 7064 and 7065 have no credentials
in the address; they are taken out before it goes anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from aiortc import RTCIceServer

from streamer.errors import ConfigError

_ADDRESS = re.compile(
    r"(?P<scheme>stuns?|turns?):(?:(?P<user>[^@]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?(?P<query>\?transport=(?:udp|tcp))?"
)


@dataclass(frozen=True)
class IceServer:
    """One server that helps to find a way.  url: without credentials."""

    url: str
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> IceServer:
        """Read an address.  Raises ConfigError that says what is wrong with it."""
        match = _ADDRESS.fullmatch(text.strip())
        if match is None:
            shown = re.sub(r":[^:@/]*@", ":...@", text)
            raise ConfigError(
                f"ice server {shown!r}: cannot be read; write stun:host:port or "
                "turn:user:password@host:port?transport=udp"
            )
        part = match.groupdict(default="")
        if part["port"] and not 0 < int(part["port"]) < 65536:
            raise ConfigError(f"ice server {part['host']}: port {part['port']} is not 1 to 65535")
        port = f":{part['port']}" if part["port"] else ""
        url = f"{part['scheme']}:{part['host']}{port}{part['query']}"
        if part["scheme"].startswith("stun"):
            if part["user"] or part["query"]:
                raise ConfigError(f"ice server {url}: stun takes neither credentials nor transport")
            return cls(url)
        user, colon, password = part["user"].partition(":")
        if not (user and colon and password):
            raise ConfigError(
                f"ice server {url}: TURN needs credentials; write turn:user:password@host:port"
            )
        return cls(url, unquote(user), unquote(password))

    def for_aiortc(self) -> RTCIceServer:
        """The same as aiortc takes it."""
        return RTCIceServer(urls=self.url, username=self.username, credential=self.credential)
