"""HTTPS by a certificate and its key; the openssl command makes both."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from pathlib import Path

import httpx
import pytest

from streamer.errors import ConfigError
from streamer.server.run import check_tls


def certificate(folder: Path, name: str) -> tuple[str, str]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing")
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True
    )
    return str(cert), str(key)


def test_a_key_of_another_certificate_and_what_is_no_pem_are_refused(tmp_path: Path) -> None:
    (cert, key), (_, other) = certificate(tmp_path, "one"), certificate(tmp_path, "two")
    check_tls(cert, key)
    (tmp_path / "text.pem").write_text("hello")
    for given in ((cert, other), (str(tmp_path / "text.pem"), key)):
        with pytest.raises(ConfigError, match="cannot be used for HTTPS"):
            check_tls(*given)


def test_the_server_answers_over_https(tmp_path: Path) -> None:
    import uvicorn

    from streamer.server import run
    from tests.fakes import FakeEngine, pattern_config

    cert, key = certificate(tmp_path, "one")
    bound: list[str] = []
    seen: list[int] = []
    servers: list[uvicorn.Server] = []
    trust = ssl.create_default_context(cafile=cert)

    def ask(url: str) -> None:
        bound.append(url)

        def look() -> None:
            with httpx.Client(verify=trust, trust_env=False) as http:
                for _ in range(100):
                    try:
                        seen.append(http.get(f"{url}healthz").status_code)
                        break
                    except httpx.TransportError:
                        threading.Event().wait(0.05)
            servers[0].should_exit = True

        threading.Thread(target=look, daemon=True).start()

    class Noted(uvicorn.Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            servers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.uvicorn, "Server", Noted)
        run.run_server(
            pattern_config(port=0, tls_cert=cert, tls_key=key),
            on_bound=ask,
            on_progress=lambda progress, stage: None,
            engine_factory=FakeEngine(block_s=0.02),
        )
    assert bound[0].startswith("https://127.0.0.1:")
    assert seen == [200]
