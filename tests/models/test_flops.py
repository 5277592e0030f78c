"""The formula of a pass agrees with a count of what the pass does."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from streamer.models.cache import RingLayout
from streamer.models.flops import pass_flops
from streamer.models.rolling import RollingContext
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

CONFIG = TransformerConfig(
    width=64,
    num_heads=2,
    ffn_width=192,
    num_layers=3,
    in_channels=4,
    out_channels=4,
    text_width=8,
    text_length=5,
    freq_width=16,
)


CARRYING = replace(CONFIG, predicts_clean=True, carries=2)


@pytest.mark.parametrize("config", [CONFIG, CARRYING], ids=["plain", "carrying"])
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_the_formula_is_the_count(blocks: int, config: TransformerConfig):
    transformer = CausalWanTransformer(config).requires_grad_(False)
    prompt = transformer.encode_text(torch.randn(1, 3, 8))
    context = RollingContext(config.cache_shape(16, 24), RingLayout(6))
    for _ in range(blocks):
        context.begin(3)
        # The counter does not know the attention that PyTorch takes on processors.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            transformer(torch.randn(1, 3, 4, 16, 24), torch.zeros(1), prompt, context)
        context.commit()
    tokens = 8 * 12
    formula = pass_flops(config, 3 * tokens, min(3 * blocks, 6) * tokens)
    # Patches, head and time are left out on purpose.
    assert 0.95 < formula / counter.get_total_flops() <= 1.0


def test_the_published_model_at_full_window_is_forty_tera():
    tokens = 1560
    assert pass_flops(TransformerConfig.wan_1_3b(), 3 * tokens, 21 * tokens) == pytest.approx(
        40.4e12, rel=2e-3
    )
