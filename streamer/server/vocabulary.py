"""What can be said to the model at hand: the list that lies beside its text encoder."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from streamer.config import Config, weights_path

NAME = "vocabulary.json"


def vocabulary_path(config: Config) -> Path | None:
    """The list of the configured model; None for one that takes any words."""
    if config.model is None:
        return None
    path = weights_path(config.model.text.weights).parent / NAME
    return path if path.is_file() else None


def vocabulary_routes(config: Config) -> APIRouter:
    """The route of the list."""
    router = APIRouter(tags=["model"])

    @router.get("/api/vocabulary", response_class=FileResponse)
    def vocabulary() -> FileResponse:
        """What the model knows to draw, by attribute and class, with wordings of each.

        404 for a model that has no such list.
        """
        path = vocabulary_path(config)
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, media_type="application/json")

    return router
