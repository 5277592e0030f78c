"""Sentences for weights that are whole but not what was asked for: what they are, what to do."""

from __future__ import annotations

from streamer.errors import WeightsError
from streamer.models.checkpoints.recognise import Kind, Recognised

_TITLES: dict[Kind, str] = {
    "transformer": "a Wan transformer",
    "vae": "a Wan VAE",
    "text": "a UMT5 text encoder",
    "taehv": "a TAEHV decoder",
    "lora": "a LoRA",
    "image encoder": "a CLIP image encoder",
}

_OVERRIDE = "; if you know that it is causal, set model.transformer.assume_causal to true"


def require_kind(found: Recognised, kind: Kind) -> None:
    """Raise WeightsError unless the file holds a network of this kind."""
    if found.kind == kind:
        return
    hint = ""
    if found.kind == "lora":
        hint = "; a LoRA goes into model.transformer.loras, beside the base model in weights"
    elif found.kind == "image encoder":
        hint = "; it belongs to image-to-video models, which do not stream"
    raise WeightsError(f"{found.path}: holds {_TITLES[found.kind]}, wanted {_TITLES[kind]}{hint}")


def require_stream_model(found: Recognised, *, assume_causal: bool = False) -> None:
    """Raise WeightsError when a transformer is known not to be one that makes a stream.

    assume_causal: overrules evidence that lies beside the tensors, not evidence in them.
    """
    require_kind(found, "transformer")
    what = f"{found.path}: {found.title} ({found.why})"
    if found.role == "image-to-video":
        raise WeightsError(
            f"{what}; a stream model reads 16 latent channels and no image; take a causal "
            "text-to-video checkpoint (`streamer models list`)"
        )
    if found.role in ("critic", "other"):
        raise WeightsError(
            f"{what}; it makes no stream; take the distilled generator (`streamer models list`)"
        )
    if assume_causal:
        return
    if found.role == "ode":
        raise WeightsError(
            f"{what}: the point where a distillation starts, which makes blurred video with few "
            "steps; take the finished checkpoint, such as self_forcing_dmd.pt" + _OVERRIDE
        )
    if found.role == "bidirectional":
        raise WeightsError(
            f"{what}: it needs to see a whole clip and 40 to 50 steps, and a stream of it falls "
            "apart after one block; take a causal checkpoint that was distilled from it "
            "(`streamer models list`)" + _OVERRIDE
        )
