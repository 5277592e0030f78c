"""How much arithmetic a pass is, by the sizes alone.  One product and its sum are two."""

from __future__ import annotations

from streamer.models.transformer import TransformerConfig


def pass_flops(config: TransformerConfig, num_tokens: int, num_keys: int) -> float:
    """Of one sample: `num_tokens` queries that see `num_keys` slots of the ring.

    Counts the products of all layers: projections, both attentions and the feed-forward.  Patches,
    head, time and norms are left out; in the published sizes they are less than one in a thousand.
    """
    width, text = config.width, config.text_length
    linear = 12 * width * width + 4 * width * config.ffn_width  # q, k, v, o; cross q, o; ffn
    attention = 4 * width * (num_keys + text)
    return float(config.num_layers * num_tokens * (linear + attention))
