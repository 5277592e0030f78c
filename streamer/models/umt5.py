"""UMT5: the text encoder of Wan2.1, through `transformers`, with Wan's padding and zeroing.

A prompt is cleaned, cut or padded to `text_length` tokens of which the last real one is the end
token, and encoded with the padding masked; the rows behind the end token are then set to zero, and
the transformer attends to them like to all others, as it was trained.  Chung et al. 2023,
"UniMax", arXiv:2304.09151; Wan, 2025, arXiv:2503.20314.

`transformers` is imported when an encoder is made, not before; it comes with the extra `wan`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from streamer.errors import ConfigError, WeightsError
from streamer.models.checkpoints.load import fill, locate
from streamer.models.text import clean_prompt

TEXT_LENGTH = 512
"""Tokens that Wan2.1 reads of a prompt, the end token included."""

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_PLACES = ("", "google/umt5-xxl", "tokenizer")
"""Where the tokenizer lies in a folder of its own, in Wan's folder, and in a diffusers folder."""

MAX_DISTANCE = 128
EPS = 1e-6


@dataclass(frozen=True)
class UMT5Sizes:
    """Sizes of one UMT5 encoder; the published one is UMT5-XXL, 24 layers of 4096."""

    vocabulary: int
    width: int
    num_layers: int
    num_heads: int
    head_width: int
    ffn_width: int
    num_buckets: int

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> UMT5Sizes:
        """The sizes that tensors tell, by the names that `transformers` gives them.

        Raises ValueError when one of the tensors that tell a size is missing.
        """
        layer = "encoder.block.0.layer."
        try:
            vocabulary, width = shapes["shared.weight"]
            buckets, heads = shapes[f"{layer}0.SelfAttention.relative_attention_bias.weight"]
            inner = shapes[f"{layer}0.SelfAttention.q.weight"][0]
            ffn_width = shapes[f"{layer}1.DenseReluDense.wi_0.weight"][0]
        except KeyError as error:
            raise ValueError(f"{error.args[0]} is missing; is this a UMT5 encoder?") from error
        layers = {name.split(".")[2] for name in shapes if name.startswith("encoder.block.")}
        return cls(vocabulary, width, len(layers), heads, inner // heads, ffn_width, buckets)


class Tokenizer(Protocol):
    """Text to token numbers."""

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token numbers and which of them are real: int64 [B, N], int64 [B, N] of 0 and 1."""


class FileTokenizer:
    """The tokenizer of a `tokenizer.json`: every text as `text_length` tokens."""

    def __init__(self, folder: Path, text_length: int = TEXT_LENGTH) -> None:
        """folder: that of the file, or a model folder in one of the published layouts.

        Raises WeightsError when the file is not there or damaged.
        """
        from tokenizers import Tokenizer as Published

        path = find_tokenizer(folder)
        try:
            self._published = Published.from_file(str(path))
        except Exception as error:  # the library raises nothing more precise
            raise WeightsError(f"{path}: damaged, or no tokenizer: {error}") from error
        pad = self._published.token_to_id("<pad>")
        if pad is None:
            raise WeightsError(f"{path}: knows no token <pad>; is it the tokenizer of UMT5?")
        self._published.enable_truncation(text_length)
        self._published.enable_padding(length=text_length, pad_id=pad, pad_token="<pad>")

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See Tokenizer."""
        found = self._published.encode_batch(list(texts))
        return (
            torch.tensor([text.ids for text in found]),
            torch.tensor([text.attention_mask for text in found]),
        )


class UMT5TextEncoder:
    """Prompts to the rows that the transformer's cross-attention reads.  Holds weights.

    Owner: DiffusionModel, in the worker.  No prompt changes it.

    is_parked: the weights stay in the host's memory, and one layer at a time visits the device
    while a prompt is encoded; UMT5-XXL then needs 0.5 GB of the device instead of 11.4.
    """

    def __init__(
        self,
        encoder: nn.Module,
        tokenizer: Tokenizer,
        *,
        text_length: int = TEXT_LENGTH,
        device: torch.device | str = "cpu",
        is_parked: bool = False,
    ) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._length = text_length
        self._device = torch.device(device)
        self._embedding: nn.Embedding = encoder.get_submodule("shared")  # type: ignore[assignment]
        if is_parked:
            _park(encoder, self._device)
        else:
            encoder.to(self._device)

    @property
    def text_length(self) -> int:
        """Rows per prompt."""
        return self._length

    @property
    def text_width(self) -> int:
        """Numbers per row."""
        return self._embedding.embedding_dim

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode prompts.

        Result: [B, text_length, text_width], in the encoder's dtype, on its device; zeros behind
        the end token.
        """
        return self.encode_tokens(*self._tokenizer([clean_prompt(text) for text in texts]))

    def encode_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens, mask: int64 [B, N], mask 1 for real tokens -> [B, N, text_width], zero rows for
        the others."""
        return self.encode_raw(tokens, mask) * mask.to(self._device)[..., None]

    @torch.inference_mode()
    def encode_raw(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """As `encode_tokens`, before the rows of the padding are set to zero."""
        rows = self._embedding(tokens.to(self._embedding.weight.device)).to(self._device)
        made: Any = self._encoder(inputs_embeds=rows, attention_mask=mask.to(self._device))
        result: Tensor = made.last_hidden_state
        return result


def build_umt5(sizes: UMT5Sizes) -> nn.Module:
    """The encoder's network from `transformers`, on the default device, its weights not set.

    Raises ConfigError when `transformers` is not installed.
    """
    try:
        from transformers import UMT5Config, UMT5EncoderModel
    except ImportError as error:
        raise ConfigError(
            "the text encoder UMT5 needs the package `transformers`, which is not installed; "
            'install it with: pip install "streamer[wan]"'
        ) from error
    config = UMT5Config(
        vocab_size=sizes.vocabulary,
        d_model=sizes.width,
        d_kv=sizes.head_width,
        d_ff=sizes.ffn_width,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        relative_attention_num_buckets=sizes.num_buckets,
        relative_attention_max_distance=MAX_DISTANCE,
        layer_norm_epsilon=EPS,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    network: nn.Module = UMT5EncoderModel(config)
    return network.eval().requires_grad_(False)


def load_umt5(
    weights: Path,
    tokenizer: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    is_parked: bool = False,
    text_length: int = TEXT_LENGTH,
    on_progress: Callable[[float, str], None] | None = None,
) -> UMT5TextEncoder:
    """Read an encoder from a file or folder in Wan's own or in the `transformers` layout.

    tokenizer: see FileTokenizer.
    Raises WeightsError for files that are missing, damaged or of something else, and ConfigError
    when a needed package is not installed.
    """
    found = locate([weights], "text")
    shapes = {name: found.tensors.entries[stored].shape for name, stored in found.names.items()}
    try:
        sizes = UMT5Sizes.of_shapes(shapes)
    except ValueError as error:
        raise WeightsError(f"{found.path}: {error}") from error
    with torch.device("meta"):
        network = build_umt5(sizes)
    words = FileTokenizer(tokenizer, text_length)
    target = "cpu" if is_parked else device
    fill(network, found, dtype=dtype, device=target, on_progress=on_progress)
    return UMT5TextEncoder(
        network, words, text_length=text_length, device=device, is_parked=is_parked
    )


def find_tokenizer(folder: Path) -> Path:
    """The tokenizer's file in a folder.  Raises WeightsError, naming where it was looked for."""
    if folder.is_file():
        return folder
    for place in TOKENIZER_PLACES:
        path = folder / place / TOKENIZER_FILE
        if path.is_file():
            return path
    looked = ", ".join(str(Path(place) / TOKENIZER_FILE) for place in TOKENIZER_PLACES)
    raise WeightsError(
        f"{folder}: holds no tokenizer; looked for {looked}; name the folder of UMT5's tokenizer "
        "in model.text.tokenizer"
    )


def _park(encoder: nn.Module, device: torch.device) -> None:
    """Keep the layers in the host's memory and let each visit the device during its own pass.

    The embedding is looked up where it lies; only the last norm stays on the device.
    """
    stack: Any = encoder.get_submodule("encoder")
    stack.final_layer_norm.to(device)
    for layer in stack.block:
        at_home = {parameter: _pinned(parameter.data, device) for parameter in layer.parameters()}

        def visit(_layer: nn.Module, _inputs: object, at_home: Any = at_home) -> None:
            for parameter, tensor in at_home.items():
                parameter.data = tensor.to(device, non_blocking=True)

        def leave(
            _layer: nn.Module, _inputs: object, _output: object, at_home: Any = at_home
        ) -> None:
            for parameter, tensor in at_home.items():
                parameter.data = tensor

        layer.register_forward_pre_hook(visit)
        layer.register_forward_hook(leave)


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """In memory that a GPU can fetch from at full speed."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
