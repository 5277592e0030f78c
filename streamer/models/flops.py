"""How much arithmetic a pass is, by the sizes alone.  One product and its sum are two."""

from __future__ import annotations

from streamer.models.transformer import TransformerConfig


def pass_flops(config: TransformerConfig, num_tokens: int, num_keys: int) -> float:
    """Of one sample: `num_tokens` queries that see `num_keys` slots of the ring.

    Counts the products of all layers: projections, both attentions and the feed-forward, and those
    of what is carried.  Patches, head, time and norms are left out; in the published sizes they are
    less than one in a thousand.
    """
    width, text = config.width, config.text_length
    linear = 12 * width * width + 4 * width * config.ffn_width  # q, k, v, o; cross q, o; ffn
    attention = 4 * width * (num_keys + text)
    total = config.num_layers * (linear + attention)
    if copies := config.carries:
        total += copies * (4 * width * width + 4 * width * num_keys)  # q, k; attention
        total += 8 * width * ((copies + 2) * config.patch_size + width)  # seen, out; moves
    return float(num_tokens * total)
