"""Names of published checkpoints, translated to the names that the modules here have.

Our transformer and VAE keep Wan2.1's own names, the text encoder those of `transformers`.  Every
function takes one name and returns ours, or None when the layout does not know it; nothing here
looks at a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Translate = Callable[[str], str | None]

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What FSDP, activation checkpointing and torch.compile write into the middle of a name."""

NESTS = ("generator_ema", "generator", "generator_lora", "critic")
"""Keys under which training code keeps the tensors of one network, best first."""

PREFIXES = ("model.", "diffusion_model.")
"""What pipelines put before every name of the network that they hold; each is dropped once."""


def canonical(name: str) -> str | None:
    """A name without wrappers and one leading `model.`; None when it still begins with a nest.

    As Self-Forcing, CausVid and LongLive save them, and as their loaders strip them.
    """
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    if name.split(".", 1)[0] in NESTS:
        return None
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


_DIFFUSERS_TOP = {
    "patch_embedding": "patch_embedding",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
}
_DIFFUSERS_BLOCK = {
    "scale_shift_table": "modulation",
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "attn2.norm_added_k": "cross_attn.norm_k_img",
    **{
        f"{theirs}.{their_part}": f"{ours}.{our_part}"
        for theirs, ours in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for their_part, our_part in (
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "o"),
            ("norm_q", "norm_q"),
            ("norm_k", "norm_k"),
        )
    },
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def transformer_module(name: str) -> str | None:
    """A module of diffusers' WanTransformer3DModel by its original name, without weight or bias.

    diffusers numbers the norms otherwise: its norm2 is the original norm3, the only one with
    weights.
    """
    block = _BLOCK.fullmatch(name)
    if block is None:
        return _DIFFUSERS_TOP.get(name)
    inner = _DIFFUSERS_BLOCK.get(block[2])
    return None if inner is None else f"blocks.{block[1]}.{inner}"


def transformer_from_diffusers(name: str) -> str | None:
    """A tensor of diffusers' WanTransformer3DModel by its original name."""
    module, leaf = split_leaf(name)
    ours = transformer_module(module)
    return None if ours is None else ours + leaf


_VAE_TOP = {
    "quant_conv": "conv1",
    "post_quant_conv": "conv2",
    "encoder.conv_in": "encoder.conv1",
    "decoder.conv_in": "decoder.conv1",
    "encoder.norm_out": "encoder.head.0",
    "decoder.norm_out": "decoder.head.0",
    "encoder.conv_out": "encoder.head.2",
    "decoder.conv_out": "decoder.head.2",
}
_RESIDUAL = {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}
_VAE_RESNETS_PER_STAGE = 4
"""The original counts a decoder stage as three residual blocks and its resampler, flat."""


def vae_from_diffusers(name: str) -> str | None:
    """A tensor of diffusers' AutoencoderKLWan by its original name."""
    module, leaf = split_leaf(name)
    if module in _VAE_TOP:
        return _VAE_TOP[module] + leaf
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.([01])\.(\w+)", module):
        part = _RESIDUAL.get(found[3])
        return part and f"{found[1]}.middle.{2 * int(found[2])}.{part}{leaf}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)", module):
        return f"{found[1]}.middle.1.{found[2]}{leaf}"
    if found := re.fullmatch(r"encoder\.down_blocks\.(\d+)\.(.+)", module):
        return f"encoder.downsamples.{found[1]}.{_RESIDUAL.get(found[2], found[2])}{leaf}"
    if found := re.fullmatch(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.(\w+)", module):
        part = _RESIDUAL.get(found[3])
        place = _VAE_RESNETS_PER_STAGE * int(found[1]) + int(found[2])
        return part and f"decoder.upsamples.{place}.{part}{leaf}"
    if found := re.fullmatch(r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.(.+)", module):
        place = _VAE_RESNETS_PER_STAGE * int(found[1]) + _VAE_RESNETS_PER_STAGE - 1
        return f"decoder.upsamples.{place}.{found[2]}{leaf}"
    return None


_UMT5_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def umt5_from_original(name: str) -> str | None:
    """A tensor of Wan's UMT5 encoder by the name that `transformers` gives it."""
    module, leaf = split_leaf(name)
    if module == "token_embedding":
        return "shared" + leaf
    if module == "norm":
        return "encoder.final_layer_norm" + leaf
    block = _BLOCK.fullmatch(module)
    inner = block and _UMT5_BLOCK.get(block[2])
    return f"encoder.block.{block[1]}.{inner}{leaf}" if block and inner else None


def split_leaf(name: str) -> tuple[str, str]:
    """A tensor's name as its module and `.weight`, `.bias` or `.gamma` (or nothing)."""
    for leaf in (".weight", ".bias", ".gamma"):
        if name.endswith(leaf):
            return name.removesuffix(leaf), leaf
    return name, ""


def transformer_module_to_diffusers(name: str) -> str | None:
    """The other way round: a module of ours by the name that diffusers gives it."""
    block = _BLOCK.fullmatch(name)
    inner = block[2] if block else name
    table = _DIFFUSERS_BLOCK if block else _DIFFUSERS_TOP
    theirs = next((key for key, value in table.items() if value == inner), None)
    if theirs is None:
        return None
    return f"blocks.{block[1]}.{theirs}" if block else theirs
