"""What the server tells of the words its model knows."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from streamer.config import Config, load_config
from streamer.server.vocabulary import vocabulary_routes


async def ask(config: Config) -> httpx.Response:
    app = FastAPI()
    app.include_router(vocabulary_routes(config))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return await client.get("/api/vocabulary")


async def test_the_shipped_model_tells_what_it_can_draw() -> None:
    told = (await ask(load_config("storybook"))).json()
    assert "in a meadow" in told["attributes"]["scene"]["meadow"]


@pytest.mark.parametrize("name", ["pattern", "wan2.1-t2v-1.3b-self-forcing"])
async def test_a_model_without_a_list_has_none(name: str) -> None:
    assert (await ask(load_config(name))).status_code == 404
