"""Published checkpoints: recognised by content, refused by name, loaded strictly."""

from streamer.models.checkpoints.load import LoraFile, fill, load_checkpoint, locate
from streamer.models.checkpoints.recognise import Recognised, recognise, recognise_folder
from streamer.models.checkpoints.refuse import require_kind, require_stream_model

__all__ = [
    "LoraFile",
    "Recognised",
    "fill",
    "load_checkpoint",
    "locate",
    "recognise",
    "recognise_folder",
    "require_kind",
    "require_stream_model",
]
