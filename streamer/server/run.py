"""Bind, serve, and end in time."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import uvicorn

from streamer.config import Config
from streamer.engine.handle import Engine
from streamer.errors import AddressInUseError, ConfigError, StreamerError
from streamer.server.app import create_app
from streamer.server.loading import EngineFactory

log = logging.getLogger(__name__)

GRACE_S = 1
"""How long open connections may take to end after Ctrl-C."""


def run_server(
    config: Config,
    *,
    on_bound: Callable[[str], None],
    on_progress: Callable[[float, str], None],
    engine_factory: EngineFactory = Engine,
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    on_bound: called with the page's address once the socket listens, before the model is loaded.
    on_progress: told how loading goes, 0..1 and the stage.
    Raises AddressInUseError or ConfigError before anything is started, and what loading raised.
    """
    failures: list[StreamerError] = []

    def failed(error: StreamerError) -> None:
        failures.append(error)
        server.should_exit = True

    server_section = config.server
    check_tls(server_section.tls_cert, server_section.tls_key)
    app = create_app(config, engine_factory, on_progress=on_progress, on_failed=failed)
    listening = bind(config.server.host, config.server.port)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws_max_size=config.server.message_bytes,
            timeout_graceful_shutdown=GRACE_S,
            ssl_certfile=_path(server_section.tls_cert),
            ssl_keyfile=_path(server_section.tls_key),
        )
    )
    with listening:
        on_bound(address_of(listening, "https" if server_section.tls_cert else "http"))
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            # uvicorn has shut down in order and raises the signal again for its caller.
            log.info("stopped by the keyboard")
    if failures:
        raise failures[0]


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises AddressInUseError when the port is somebody else's, ConfigError when the host is not
    this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind)
    except OSError as error:
        raise ConfigError(f"server.host {host!r}: no such address: {error}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(
                f"port {port} of {host} is in use by another program; choose another with --port, "
                "or take a free one with --port 0"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise AddressInUseError(
                f"port {port} of {host} needs more rights than this user has; choose one above "
                "1023 with --port"
            ) from error
        raise ConfigError(f"server.host {host!r}: cannot be bound: {error.strerror}") from error
    return listening


def check_tls(cert: str | None, key: str | None) -> None:
    """Raise ConfigError unless certificate and key can be read and belong together."""
    if cert is None or key is None:
        return
    try:
        for name in (cert, key):
            with Path(name).expanduser().open("rb"):
                pass
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from error
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(cert).expanduser(), Path(key).expanduser(), lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"{cert} and {key}: cannot be used for HTTPS: {error}; both must be PEM, without a "
            "password, and belong together"
        ) from error


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name).expanduser()


def address_of(listening: socket.socket, scheme: str = "http") -> str:
    """The address of the page, as a browser on this machine would open it."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    if ":" in host:
        host = f"[{host}]"
    return f"{scheme}://{host}:{port}/"
