"""The transformer of a case, from the sheet's sizes and the case's weights."""

from __future__ import annotations

from streamer.models.transformer import CausalWanTransformer, TransformerConfig
from tests.conformance.casefile import CaseFile


def read_config(case: CaseFile) -> TransformerConfig:
    """Published names of the sizes to ours."""
    model = case.sheet["model"]
    rows = tuple(model["patch_size"])
    return TransformerConfig(
        width=model["dim"],
        num_heads=model["num_heads"],
        ffn_width=model["ffn_dim"],
        num_layers=model["num_layers"],
        in_channels=model["in_dim"],
        out_channels=model["out_dim"],
        patch=(rows[0], rows[1], rows[2]),
        text_width=model["text_dim"],
        text_length=model["text_len"],
        freq_width=model["freq_dim"],
        eps=model["eps"],
    )


def load_network(case: CaseFile) -> CausalWanTransformer:
    """The network with the case's weights, strictly loaded."""
    network = CausalWanTransformer(read_config(case))
    weights = {
        name: tensor for name, tensor in case.weights().items() if not name.startswith("vae.")
    }
    network.load_state_dict(weights, strict=True)
    return network.eval()
