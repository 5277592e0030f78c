"""What tests of the fan-out share."""

from __future__ import annotations

import pytest


@pytest.fixture
def never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture is repeated, however long this machine takes from one to the next."""
    monkeypatch.setattr("streamer.delivery.fanout.IDLE_S", 3600.0)
    monkeypatch.setattr("streamer.delivery.fanout._KEY_WAIT_S", 3600.0)
