"""LightX2V's configuration files, read as they are: what each key means here.

They describe a run of `lightx2v.infer`, ours a model that streams; docs/lightx2v.md goes through
the keys one by one.  Two of its formats make streams: `configs/causvid/*.json` and
`configs/self_forcing/*.json`.  What a key cannot mean here is said in a warning; what would change
the picture is an error.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamer.errors import ConfigError

MARKS = ("infer_steps", "target_height", "target_width", "sample_shift")
"""Keys that every one of its files has and none of ours."""

PATCH_PX = 16
"""Pixels along one side of a token: eight a latent, two latents a patch."""

TEACHER_FOLDERS = {"1.3b": "Wan2.1-T2V-1.3B", "14b": "Wan2.1-T2V-14B"}
SIZES = {
    "1.3b": {"width": 1536, "num_heads": 12, "num_layers": 30, "ffn_width": 8960},
    "14b": {"width": 5120, "num_heads": 40, "num_layers": 40, "ffn_width": 13824},
}
THEIR_SIZES = {
    "dim": "width",
    "num_heads": "num_heads",
    "num_layers": "num_layers",
    "ffn_dim": "ffn_width",
    "text_dim": "text_width",
    "freq_dim": "freq_width",
    "in_dim": "latent_channels",
    "text_len": "text_length",
}
"""Keys of the config.json in a Wan folder, and ours."""

MODEL_CLASSES = ("wan2.1_causvid", "wan2.1_causal", "wan2.1_sf")
EXACT_ATTENTION = ("torch_sdpa", "flash_attn2", "flash_attn3", "flash_attn4", "flashinfer")
APPROXIMATE_ATTENTION = ("sage_attn2", "sage_attn3", "sage_attn2_k_int8_v_fp8")
CAUSAL_ROPES = ("wan_causal_rope",)
TEXT_LENGTH = 512

PICTURE_KEYS = {
    "infer_steps",
    "target_video_length",
    "target_height",
    "target_width",
    "target_fps",
    "fps",
    "sample_guide_scale",
    "sample_shift",
    "enable_cfg",
    "num_fragments",
    "num_frames",
    "num_frame_per_block",
    "num_blocks",
    "frame_seq_length",
    "denoising_step_list",
    "ar_config",
    "text_len",
    "task",
    "model_cls",
    "dit_original_ckpt",
    "vae_path",
    "tae_path",
    "use_lightvae",
    "use_tae",
    "use_tiny_vae",
    "lora_configs",
    "dit_quantized",
    "dit_quantized_ckpt",
    "dit_quant_scheme",
    "causal_rope_type",
}
ATTENTION_KEYS = {"self_attn_1_type", "cross_attn_1_type", "cross_attn_2_type"}
PLACE_KEYS = {
    "cpu_offload",
    "offload_granularity",
    "t5_cpu_offload",
    "vae_cpu_offload",
    "lazy_load",
    "unload_modules",
    "compile",
    "seed",
    "feature_caching",
    "async_vae_decode",
}
"""Where and when things are computed: it does not change the picture, or belongs to a run."""

AR_KEYS = {
    "local_attn_size",
    "sink_size",
    "num_frame_per_chunk",
    "timesteps_index",
    "denoising_step_list",
    "context_noise",
    "kv_offload",
    "kv_quant",
    "async_vae_decode",
}


@dataclass
class Translated:
    """A configuration of ours as a JSON tree, and what had to be said about it."""

    tree: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def is_lightx2v(tree: object) -> bool:
    """Whether a decoded JSON file is one of LightX2V's."""
    return (
        isinstance(tree, dict) and "family" not in tree and sum(mark in tree for mark in MARKS) >= 3
    )


def translate(tree: Mapping[str, Any], name: str, model_path: Path | None = None) -> Translated:
    """What a LightX2V file means here.

    name: the file, for messages.  model_path: the Wan folder of the run, whose config.json knows
    the sizes; None: the sizes are guessed from the file.
    Raises ConfigError for keys that are not known, or ask for what is not made here.
    """
    _refuse_unknown(tree, name)
    chunked = tree.get("ar_config")
    if chunked is not None and not isinstance(chunked, dict):
        raise ConfigError(f"{name}: ar_config is {chunked!r}, expected an object")
    run = _Run(tree, chunked or {}, name)
    run.check_task()
    size, sizes = run.sizes(model_path)
    folder = TEACHER_FOLDERS[size]
    stream = run.stream()
    sampler = run.sampler()
    run.warn_of_attention()
    run.warn_of_places()
    return Translated(
        {
            "name": f"lightx2v-{Path(name).stem}",
            "title": f"LightX2V's {Path(name).name}",
            "family": "wan",
            "stream": stream,
            "model": {
                "transformer": {
                    **sizes,
                    "weights": run.weights(folder),
                    "loras": run.loras(),
                    "dtype": "bfloat16",
                },
                "sampler": sampler,
                "decoder": run.decoder(folder),
                "text": {
                    "kind": "umt5",
                    "weights": f"models/{folder}/models_t5_umt5-xxl-enc-bf16.pth",
                    "tokenizer": f"models/{folder}/google/umt5-xxl",
                },
            },
        },
        run.warnings,
    )


class _Run:
    """One file while it is read: its keys, and the warnings so far."""

    def __init__(self, tree: Mapping[str, Any], chunked: Mapping[str, Any], name: str) -> None:
        self.tree, self.chunked, self.name = tree, chunked, name
        self.warnings: list[str] = []

    def check_task(self) -> None:
        """Raise ConfigError for other networks and tasks, and for weights in fewer bits."""
        model_cls = self.tree.get("model_cls")
        if model_cls is not None and model_cls not in MODEL_CLASSES:
            raise self._error(
                f"model_cls is {model_cls!r}; causal models stream: {', '.join(MODEL_CLASSES)}"
            )
        if self.tree.get("task", "t2v") != "t2v":
            raise self._error(f"task is {self.tree['task']!r}; only 't2v' makes a stream")
        if self.tree.get("dit_quantized"):
            scheme = self.tree.get("dit_quant_scheme", "unknown")
            raise self._error(
                f"dit_quantized is true ({scheme}); its quantised files are not read; take the "
                "bfloat16 checkpoint and leave the key out"
            )
        if self.tree.get("text_len", TEXT_LENGTH) != TEXT_LENGTH:
            raise self._error(f"text_len is {self.tree['text_len']}; the models read {TEXT_LENGTH}")
        rope = self.tree.get("causal_rope_type", CAUSAL_ROPES[0])
        if rope not in CAUSAL_ROPES:
            raise self._error(f"causal_rope_type is {rope!r}; known: {', '.join(CAUSAL_ROPES)}")
        if not self._steps_key():
            raise self._error(
                "there is no denoising_step_list, nor ar_config with timesteps_index: this file is "
                "of a bidirectional model, which makes no stream"
            )

    def sizes(self, model_path: Path | None) -> tuple[str, dict[str, int]]:
        """Which of the published networks, and its sizes, or those that the Wan folder says."""
        about = _wan_config(model_path) if model_path is not None else {}
        if about.get("model_type", "t2v") != "t2v":
            raise self._error(
                f"{model_path} holds a model for {about['model_type']!r}; name the folder of a "
                "text-to-video model with --model-path"
            )
        said = {ours: int(about[theirs]) for theirs, ours in THEIR_SIZES.items() if theirs in about}
        hint = str(self.tree.get("dit_original_ckpt", "")).lower()
        is_small = "14b" not in f"{hint} {self.name.lower()}" and bool(self.chunked)
        size = "1.3b" if said.get("width", 0) == 1536 or (not said and is_small) else "14b"
        return size, SIZES[size] | said

    def stream(self) -> dict[str, Any]:
        """Picture, block, window and the length of the clip."""
        width, height = self._int("target_width"), self._int("target_height")
        block = self._block()
        frames = self._latent_frames(block)
        self._check_tokens(width, height)
        fragments = self._int("num_fragments", 1)
        if fragments < 1:
            raise self._error(f"num_fragments is {fragments}, expected 1 or more")
        local, sink = self._chunk_int("local_attn_size", -1), self._chunk_int("sink_size", 0)
        latents = frames + (fragments - 1) * (frames - block)
        return {
            "width": width,
            "height": height,
            "fps": self._int("target_fps", self._int("fps", 16)),
            "num_frame_per_block": block,
            "window": frames if local < 0 else local,
            "sink": sink,
            "clip_frames": 1 + 4 * (latents - 1),
            "transition": {"kind": "recache"},
        }

    def sampler(self) -> dict[str, Any]:
        """Steps, shift and guidance."""
        steps, warp = self._steps()
        said = self.tree.get("infer_steps", len(steps))
        if said != len(steps):
            self._warn(f"infer_steps is {said}, the list has {len(steps)}; the list counts")
        scale = 1.0
        if self.tree.get("enable_cfg", False):
            scale = float(self.tree.get("sample_guide_scale", 1))
        return {
            "denoising_step_list": steps,
            "warp": warp,
            "shift": float(self.tree.get("sample_shift", 8 if not self.chunked else 5)),
            "context_noise": float(self.chunked.get("context_noise", 0.0)),
            "guidance_scale": scale,
        }

    def weights(self, folder: str) -> list[str]:
        """The transformer's file, if the file names one that is there; else the folder."""
        named = self.tree.get("dit_original_ckpt")
        if named and Path(str(named)).expanduser().exists():
            return [str(named)]
        if named:
            self._warn(
                f"dit_original_ckpt {named} is not there; the weights are looked for in the folder "
                "of --model-path"
            )
        return [f"models/{folder}"]

    def loras(self) -> list[dict[str, Any]]:
        """LoRAs to merge."""
        return [
            {"weights": str(lora["path"]), "scale": float(lora.get("strength", 1.0))}
            for lora in self.tree.get("lora_configs") or []
        ]

    def decoder(self, folder: str) -> dict[str, str]:
        """Wan's VAE, its pruned form, or the tiny one."""
        if self.tree.get("use_tae") or self.tree.get("use_tiny_vae"):
            path = self.tree.get("tae_path") or f"models/{folder}/taew2_1.pth"
            return {"kind": "taehv", "weights": str(path)}
        if self.tree.get("use_lightvae"):
            path = self.tree.get("vae_path") or f"models/{folder}/lightvaew2_1.safetensors"
            return {"kind": "lightvae", "weights": str(path)}
        path = self.tree.get("vae_path") or f"models/{folder}/Wan2.1_VAE.pth"
        return {"kind": "wan", "weights": str(path)}

    def warn_of_attention(self) -> None:
        """Say where attention is computed exactly instead."""
        for key in sorted(ATTENTION_KEYS & self.tree.keys()):
            kind = self.tree[key]
            if kind in APPROXIMATE_ATTENTION:
                self._warn(f"{key} {kind!r} rounds to few bits; attention is exact here")
            elif kind not in EXACT_ATTENTION:
                self._warn(f"{key} is {kind!r}, unknown here; attention is exact")

    def warn_of_places(self) -> None:
        """Say which wishes about memory have no effect."""
        for key in ("cpu_offload", "lazy_load", "unload_modules"):
            if self.tree.get(key):
                self._warn(f"{key} has no effect: the weights stay on the device")
        for key in ("kv_quant", "kv_offload"):
            if self.chunked.get(key):
                self._warn(f"ar_config.{key} has no effect: the window is kept as it is computed")
        if self.tree.get("feature_caching") not in (None, "NoCaching"):
            self._warn("feature_caching has no effect: each of the few steps is computed")

    def _steps_key(self) -> str:
        for key in ("timesteps_index", "denoising_step_list"):
            if self.chunked.get(key):
                return key
        return "denoising_step_list" if self.tree.get("denoising_step_list") else ""

    def _steps(self) -> tuple[list[int], bool]:
        """The timesteps of the steps; never warped again, since its lists are warped already."""
        if self.chunked.get("timesteps_index"):
            shift = float(self.tree.get("sample_shift", 5))
            indices = [int(index) for index in self.chunked["timesteps_index"]]
            if any(not 0 <= index < 1000 for index in indices):
                raise self._error(f"ar_config.timesteps_index is {indices}; expected 0 to 999")
            steps = [timestep_of_index(index, shift) for index in indices]
            self._warn(
                f"ar_config.timesteps_index {indices} means the timesteps {steps}; Self-Forcing's "
                "own are 1000, 937.5, 833.3, 625 (configuration wan2.1-t2v-1.3b-self-forcing)"
            )
            return steps, False
        steps = self.chunked.get("denoising_step_list") or self.tree["denoising_step_list"]
        return [int(step) for step in steps], False

    def _block(self) -> int:
        if self.chunked:
            return self._chunk_int("num_frame_per_chunk", 3)
        return self._int("num_frame_per_block", 3)

    def _latent_frames(self, block: int) -> int:
        """Latent frames of a fragment: num_frames, or what target_video_length comes to."""
        if block < 1:
            raise self._error(f"the block has {block} latent frames, expected 1 or more")
        length = self._int("target_video_length", 81)
        if "num_frames" not in self.tree:
            frames = (length - 1) // 4 + 1
            frames -= frames % block
        else:
            frames = self._int("num_frames")
            if length != 1 + 4 * (frames - 1):
                self._warn(
                    f"target_video_length is {length}, num_frames {frames} makes "
                    f"{1 + 4 * (frames - 1)} pictures; num_frames counts"
                )
        blocks = self._int("num_blocks", frames // block)
        if frames < block or frames % block:
            raise self._error(
                f"num_frames {frames} is no multiple of num_frame_per_block {block}; choose "
                f"{max(1, frames // block) * block}"
            )
        if blocks * block != frames:
            self._warn(f"num_blocks is {blocks}, corrected to {frames // block}")
        return frames

    def _check_tokens(self, width: int, height: int) -> None:
        """frame_seq_length follows from the picture; a wrong one is corrected."""
        if width % PATCH_PX or height % PATCH_PX:
            raise self._error(
                f"{width}x{height} pixels do not divide into tokens of {PATCH_PX}x{PATCH_PX}; "
                f"choose multiples of {PATCH_PX}"
            )
        tokens = (width // PATCH_PX) * (height // PATCH_PX)
        said = self._int("frame_seq_length", tokens)
        if said != tokens:
            self._warn(
                f"frame_seq_length is {said}, a picture of {width}x{height} has {tokens} tokens; "
                "corrected"
            )

    def _int(self, key: str, default: int | None = None) -> int:
        return self._number(self.tree, key, key, default)

    def _chunk_int(self, key: str, default: int) -> int:
        return self._number(self.chunked, key, f"ar_config.{key}", default)

    def _number(self, tree: Mapping[str, Any], key: str, title: str, default: int | None) -> int:
        value = tree.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._error(f"{title} is {value!r}, expected a whole number")
        return value

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"{self.name}: {text}")

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self.name}: {text}")


def timestep_of_index(index: int, shift: float) -> int:
    """The timestep that LightX2V's Self-Forcing runner feeds for an index of its table.

    Its table runs from 0.999 to 0 in 1000 steps, is shifted, and is cut to whole numbers.
    """
    point = 0.999 * (1 - index / 1000)
    return int(1000 * shift * point / (1 + (shift - 1) * point))


def _wan_config(folder: Path) -> dict[str, Any]:
    """The config.json of a Wan folder; empty without one."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return about if isinstance(about, dict) else {}


def _refuse_unknown(tree: Mapping[str, Any], name: str) -> None:
    chunked = tree.get("ar_config")
    inner = chunked if isinstance(chunked, dict) else {}
    for keys, known, place in (
        (tree, PICTURE_KEYS | ATTENTION_KEYS | PLACE_KEYS, ""),
        (inner, AR_KEYS, "ar_config."),
    ):
        for key in keys:
            if key not in known:
                near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
                hint = f"; did you mean {near[0]!r}?" if near else "; docs/lightx2v.md lists them"
                raise ConfigError(f"{name}: {place}{key}: not a key of LightX2V known here{hint}")
