"""One product for several maps gives what the maps give, and costs no memory."""

import copy

import pytest
import torch

from streamer.models.cache import RingLayout
from streamer.models.joined import join
from streamer.models.rolling import RollingContext
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

CONFIG = TransformerConfig(
    width=32,
    num_heads=2,
    ffn_width=48,
    num_layers=2,
    in_channels=4,
    out_channels=4,
    text_width=8,
    text_length=5,
    freq_width=16,
)


def test_results_lie_side_by_side():
    maps = [torch.nn.Linear(6, width, dtype=torch.float64) for width in (4, 2, 3)]
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    apart = torch.cat([each(x) for each in maps], dim=-1)
    torch.testing.assert_close(join(maps)(x), apart, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.cat([each(x) for each in maps], dim=-1), apart)


def test_weights_are_not_held_twice():
    maps = [torch.nn.Linear(6, 4) for _ in range(3)]
    join(maps)
    storages = {each.weight.untyped_storage().data_ptr() for each in maps}
    assert len(storages) == 1
    assert maps[0].weight.untyped_storage().nbytes() == 3 * 4 * 6 * 4


@pytest.mark.parametrize("sink", [0, 2])
def test_a_joined_transformer_streams_the_same_and_keeps_its_names(sink: int):
    torch.manual_seed(0)
    network = CausalWanTransformer(CONFIG).double().requires_grad_(False)
    prompt = network.encode_text(torch.randn(1, 3, CONFIG.text_width, dtype=torch.float64))
    before = copy.deepcopy(network.state_dict())
    clip = torch.randn(5, 1, 2, 4, 4, 6, dtype=torch.float64)

    def stream() -> list[torch.Tensor]:
        layout = RingLayout(5, sink, block=2)
        context = RollingContext(CONFIG.cache_shape(4, 6), layout, dtype=torch.float64)
        flows = []
        for latents in clip:
            context.begin(2)
            flows.append(network(latents, torch.full((1,), 500.0), prompt, context))
            context.commit()
        return flows

    apart = stream()
    network.join_projections()
    for flow, right in zip(stream(), apart, strict=True):
        torch.testing.assert_close(flow, right, rtol=0, atol=1e-13)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
