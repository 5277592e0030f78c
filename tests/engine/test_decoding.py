"""Decoding beside the passes: the order of work in a GPU's queues, on a machine that has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from streamer.engine import decoding
from streamer.engine.decoding import Decoding
from streamer.engine.timeline import Timeline
from streamer.models.vae import DecoderState


class Queues:
    """Writes down what is asked of which queue; `main` is the current one from the start."""

    def __init__(self) -> None:
        self.current = "main"
        self.log: list[str] = []

    def note(self, what: str) -> None:
        self.log.append(f"{self.current}: {what}")


class FakeQueue:
    def __init__(self, queues: Queues, name: str = "beside") -> None:
        self.queues, self.name = queues, name

    def wait_stream(self, other: FakeQueue) -> None:
        self.queues.log.append(f"{self.name}: waits for {other.name}")


class FakeDecoder:
    """Gives gray pictures as bright as the latents; its state counts frames."""

    def __init__(self, queues: Queues) -> None:
        self.queues = queues

    def decode(
        self, latents: Tensor, state: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState]:
        self.queues.note(f"decodes after {0 if state is None else state.frames}")
        seen = (0 if state is None else state.frames) + latents.shape[1]
        mean = latents.mean(dim=(2, 3, 4)).clamp(0, 1)
        return mean[..., None, None, None].expand(-1, -1, 3, 2, 2), DecoderState((), seen)


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Queues:
    made = Queues()

    @contextmanager
    def stream(queue: FakeQueue) -> Iterator[None]:
        before, made.current = made.current, queue.name
        yield
        made.current = before

    fakes: dict[str, Any] = {
        "Stream": lambda device: FakeQueue(made),
        "current_stream": lambda device: FakeQueue(made, made.current),
        "stream": stream,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    # Marks and copies need a device.
    monkeypatch.setattr(decoding, "Timeline", lambda device: Timeline(torch.device("cpu")))
    monkeypatch.setattr(Decoding, "_to_host", lambda self, tensor: (made.note("copies"), tensor)[1])
    monkeypatch.setattr(
        Tensor, "record_stream", lambda self, queue: made.log.append(f"{queue.name}: holds latents")
    )
    return made


def test_on_a_gpu_the_decoder_waits_for_the_latents_and_works_beside(queues: Queues):
    made = Decoding(FakeDecoder(queues), torch.device("cuda"))
    made.remember(torch.zeros(1, 2, 1, 1, 1))
    pictures, latents = made.begin(torch.full((1, 3, 1, 1, 1), 0.2)).wait()
    assert queues.log == [
        "beside: waits for main",
        "beside: holds latents",
        "beside: decodes after 0",
        "beside: waits for main",
        "beside: holds latents",
        "beside: decodes after 2",
        "beside: copies",
        "beside: copies",
    ]
    assert queues.current == "main"
    assert pictures.shape == (3, 2, 2, 3)
    assert (pictures == 51).all()
    assert latents.shape == (3, 1, 1, 1)


def test_on_a_processor_it_decodes_at_once_and_can_forget(queues: Queues):
    made = Decoding(FakeDecoder(queues), torch.device("cpu"))
    latents = torch.ones(1, 3, 1, 1, 1)
    _, kept = made.begin(latents).wait()
    latents.zero_()
    assert (kept == 1.0).all()
    made.forget()
    made.begin(latents)
    assert [line for line in queues.log if "decodes" in line] == ["main: decodes after 0"] * 2
