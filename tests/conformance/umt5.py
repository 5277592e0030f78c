"""Case g: the UMT5 encoder on recorded tokens, and the cleaned prompts beside the case."""

from __future__ import annotations

import json

from torch import Tensor

from streamer.models.checkpoints.layouts import umt5_from_original
from streamer.models.text import clean_prompt
from streamer.models.umt5 import UMT5Sizes, UMT5TextEncoder, build_umt5
from tests.conformance.casefile import CaseFile, Difference, compare

CLEANING = "g_prompt_cleaning.json"


def run(case: CaseFile) -> list[Difference]:
    """Rows before and after zeroing, in one batch and prompt by prompt."""
    encoder = _encoder(case)
    tokens, mask = case["io.in.ids"], case["io.in.mask"]
    raw, zeroed = case["io.out.embeds_raw"], case["io.out.embeds_zeroed"]
    differences = [
        compare("io.out.embeds_raw", raw, encoder.encode_raw(tokens, mask)),
        compare("io.out.embeds_zeroed", zeroed, encoder.encode_tokens(tokens, mask)),
    ]
    for i in range(len(tokens)):
        alone = encoder.encode_tokens(tokens[i : i + 1], mask[i : i + 1])
        differences.append(compare(f"io.out.embeds_zeroed, {i} alone", zeroed[i : i + 1], alone))
    return differences + _cleaning(case)


def _encoder(case: CaseFile) -> UMT5TextEncoder:
    weights: dict[str, Tensor] = {}
    for name, tensor in case.weights().items():
        ours = umt5_from_original(name)
        if ours is None:
            raise ValueError(f"{name} is no tensor of Wan's UMT5 encoder")
        weights[ours] = tensor
    network = build_umt5(UMT5Sizes.of_shapes({k: tuple(v.shape) for k, v in weights.items()}))
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    network.load_state_dict(weights, strict=True)

    def none(_texts: object) -> tuple[Tensor, Tensor]:
        raise ValueError("a recorded case brings its own tokens")

    return UMT5TextEncoder(network, none, text_length=case["io.in.ids"].shape[1])


def _cleaning(case: CaseFile) -> list[Difference]:
    """The pairs recorded beside the cases, if they are there."""
    path = case.path.parent / CLEANING
    if not path.is_file():
        return []
    pairs = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return [
        Difference(
            f"cleaned {pair['raw'][:20]!r}",
            float(clean_prompt(pair["raw"]) != pair["cleaned"]),
            0.0,
        )
        for pair in pairs
    ]
