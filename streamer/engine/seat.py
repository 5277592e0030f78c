"""Seat: the room that one stream takes of a device, where recorded passes find everything."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.models.graph import ReplayedPass
from streamer.models.rolling import RollingContext
from streamer.models.transformer import PromptKV


@dataclass(frozen=True)
class Seat:
    """What one stream takes of the device at fixed addresses, so that passes can be replayed."""

    context: RollingContext
    prompt: PromptKV
    replayed: ReplayedPass
