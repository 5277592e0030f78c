"""A recipe made tiny: every stage runs as it will, for a few steps, to see that it works at all.

What a run on a hired machine would meet after twenty minutes is met here in one or two, on a CPU.
The weights are worth nothing.
"""

from __future__ import annotations

from typing import Any

from streamer.distill.recipe import AnyStage, Recipe, WorldSection
from streamer.errors import ConfigError

_STEPS = 2
_SETTINGS: dict[str, dict[str, Any]] = {
    "text": {"num_captions": 200, "steps": 6, "batch": 16, "report_captions": 40},
    "vae": {"crops": 1, "crop_px": 64, "basis_pools": 1, "pool_clips": 4},
    "canvas": {"beginnings": 4},
    "classifier": {"batch": 2, "pool_clips": 2, "held_out_clips": 2},
    "teacher": {"clips": 2, "sheet_steps": 2},
    "trajectories": {"num_shards": 1, "per_shard": 2, "batch": 2, "num_steps": 4},
    "ode": {"clips": 2},
    "student": {"clips": 2, "beginnings": 2},
    "dmd": {"clips": 2, "beginnings": 2, "longest": 5, "critic_updates": 1},
    "evaluate": {
        "num_prompts": 1,
        "num_streams": 1,
        "drift_s": 10.0,
        "num_switches": 1,
        "num_reconstructions": 1,
    },
}
_SIZES = {"width": 64, "num_heads": 1, "num_layers": 1, "ffn_width": 64, "freq_width": 32}


def rehearsed(recipe: Recipe) -> Recipe:
    """The same stages with two steps of two clips each, and a transformer of one narrow layer.

    Raises ConfigError for a recipe that begins with weights, whose sizes are settled.
    """
    if isinstance(recipe.config, str):
        raise ConfigError(f"{recipe.name}: a recipe that names its model cannot be rehearsed")
    model = recipe.config.get("model", {})
    sizes = {**model.get("transformer", {}), **_SIZES}
    if sizes.get("text_canvas"):
        sizes["text_canvas"] = 16
    if sizes.get("carries"):  # whose tokens are no narrower than a patch
        sizes["width"] = max(sizes["width"], 4 * sizes["latent_channels"])
    config = {**recipe.config, "model": {**model, "transformer": sizes}}
    stages = [_short(stage) for stage in recipe.stages]
    return recipe.model_copy(update={"config": config, "stages": stages})


def _short(stage: AnyStage) -> AnyStage:
    trained = stage.minutes is not None or stage.steps is not None
    changes: dict[str, Any] = {
        "minutes": None,
        "steps": _STEPS if trained else None,
        "settings": {**stage.settings, **_SETTINGS.get(stage.stage, {})},
    }
    if isinstance(stage, WorldSection):
        changes |= {"shards": 1, "per_shard": 4}
    if stage.stage == "student":
        changes["minutes"] = 0.05
    return stage.model_copy(update=changes)
