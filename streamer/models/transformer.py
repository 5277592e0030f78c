"""The causal Wan2.1 diffusion transformer: (latents, timestep, text, context) -> flow.

It does not know that it is streaming: the context decides what a token may look at, and where it
    stands in time.
Parameter names are the published ones, so a checkpoint loads with strict=True.  Wan, 2025,
arXiv:2503.20314.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from streamer_kernels import Ops, load_ops
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streamer.config import TransformerSection
from streamer.models.attention import attend_rotated
from streamer.models.canvas import TextCanvas
from streamer.models.carry import Carry
from streamer.models.context import AttentionContext
from streamer.models.joined import join
from streamer.models.ring import CacheShape

_OPEN = 2.0
"""What the gate of a new canvas adds up to before the sigmoid: nearly open."""
_LEAST_SIGMA = 0.05
"""Noise level below which the flow that follows from clean latents is damped."""


@dataclass(frozen=True)
class TransformerConfig:
    """The sizes of one transformer.  patch: latent frames, rows and columns that make one token.

    learned_grid: rows and columns of tokens that get a learned vector for their place.  Rotary
    positions tell distances only; a small model learns much faster where it is when it is told.
    The published models have none and take pictures of any size.
    pooled_text: the whole text also joins the time in the modulation of every layer, which a small
    model learns to obey much sooner than cross-attention alone.  The published models have none.
    text_canvas: hidden width of the TextCanvas, 0 for no canvas; needs a learned_grid.
    canvas_frames: latent frames of the canvas, those of a block or 1.
    predicts_clean: the last map tells clean latents, from which the flow follows.  Noise need not
    pass through a network whose tokens are narrow (Li and He 2025, arXiv:2511.13720).  The
    published models tell the flow.
    carries: how many patches of the past each token may copy, see Carry; needs predicts_clean and
    tokens that are no narrower than their patches.
    Raises ValueError when the sizes do not fit each other.
    """

    width: int
    num_heads: int
    ffn_width: int
    num_layers: int
    in_channels: int = 16
    out_channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    text_width: int = 4096
    text_length: int = 512
    freq_width: int = 256
    eps: float = 1e-6
    learned_grid: tuple[int, int] | None = None
    pooled_text: bool = False
    text_canvas: int = 0
    canvas_frames: int = 1
    predicts_clean: bool = False
    carries: int = 0

    def __post_init__(self) -> None:
        if self.width % self.num_heads or self.head_width % 2:
            raise ValueError(
                f"width {self.width} does not split into {self.num_heads} heads of even width"
            )
        if self.patch[0] != 1:
            raise ValueError(f"patch is {self.patch}; a token must lie within one latent frame")
        if self.text_canvas and self.learned_grid is None:
            raise ValueError("a text_canvas is of one size; give the learned_grid, too")
        if self.carries and not (self.predicts_clean and self.width >= self.patch_size):
            raise ValueError(
                f"carries need predicts_clean, and a width of at least {self.patch_size}, that of "
                f"a patch; the width is {self.width}"
            )

    @classmethod
    def wan_1_3b(cls) -> TransformerConfig:
        """The sizes published as Wan2.1-T2V-1.3B."""
        return cls(width=1536, num_heads=12, ffn_width=8960, num_layers=30)

    @classmethod
    def wan_14b(cls) -> TransformerConfig:
        """The sizes published as Wan2.1-T2V-14B."""
        return cls(width=5120, num_heads=40, ffn_width=13824, num_layers=40)

    @classmethod
    def of(cls, section: TransformerSection) -> TransformerConfig:
        """The sizes that a configuration asks for."""
        return cls(
            width=section.width,
            num_heads=section.num_heads,
            ffn_width=section.ffn_width,
            num_layers=section.num_layers,
            in_channels=section.latent_channels,
            out_channels=section.latent_channels,
            text_width=section.text_width,
            text_length=section.text_length,
            freq_width=section.freq_width,
            learned_grid=section.learned_grid,
            pooled_text=section.pooled_text,
            text_canvas=section.text_canvas,
            canvas_frames=section.canvas_frames,
            predicts_clean=section.predicts_clean,
            carries=section.carries,
        )

    @property
    def head_width(self) -> int:
        """Channels of one attention head."""
        return self.width // self.num_heads

    @property
    def patch_size(self) -> int:
        """Numbers of the patch that makes a token."""
        return math.prod(self.patch) * self.in_channels

    @property
    def num_caches(self) -> int:
        """Layers that attend to the past: each has keys and values in the cache."""
        return self.num_layers + self.carries

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens in a latent frame.

        Raises ValueError when patches do not tile it.
        """
        _, rows, columns = self.patch
        if height % rows or width % columns:
            raise ValueError(
                f"latents of {height}x{width} do not divide into {rows}x{columns} patches"
            )
        grid = height // rows, width // columns
        if self.learned_grid not in (None, grid):
            raise ValueError(
                f"latents of {height}x{width} make {grid[0]}x{grid[1]} tokens, the model has "
                f"learnt {self.learned_grid}; it makes pictures of one size only"
            )
        return grid

    def cache_shape(self, height: int, width: int, batch: int = 1) -> CacheShape:
        """What a RollingContext needs to know, for latents of height x width."""
        rows, columns = self.grid(height, width)
        return CacheShape(self.num_caches, batch, rows, columns, self.num_heads, self.head_width)


@dataclass(frozen=True)
class PromptKV:
    """What a pass needs of one prompt: cross-attention keys and values k, v [L, B, N_text, A, D].

    pooled, canvas: [B, E] and [B, N of the canvas, C * patch], in models that have them.  Made once
    a prompt.
    A stream keeps one at a fixed address and overwrites it in place with `copy_`.
    With R times the samples of a pass, it holds R texts a sample: see `beside`.
    """

    k: Tensor
    v: Tensor
    pooled: Tensor | None = None
    canvas: Tensor | None = None

    def copy_(self, other: PromptKV) -> None:
        """Overwrite in place with another prompt of the same shape."""
        for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True):
            if mine is not None:
                mine.copy_(theirs)

    def clone(self) -> PromptKV:
        """An independent copy."""
        return replace(self, **{n: t.clone() for n, t in vars(self).items() if t is not None})

    def beside(self, other: PromptKV) -> PromptKV:
        """Two texts a sample, for a pass whose first half reads this one and whose second, other.

        results: [L, 2 B, ...] and [2 B, ...]; the texts of a sample follow each other.
        """
        dims = {"k": 1, "v": 1, "pooled": 0, "canvas": 0}
        both = {
            name: torch.stack([mine, theirs], dim=dims[name] + 1).flatten(
                dims[name], dims[name] + 1
            )
            for (name, mine), theirs in zip(vars(self).items(), vars(other).values(), strict=True)
            if mine is not None
        }
        return PromptKV(**both)


class SelfAttention(nn.Module):
    """Self-attention: RMS norm over the full width, rotary positions, what the context shows."""

    def __init__(self, config: TransformerConfig, layer: int, ops: Ops) -> None:
        super().__init__()
        self.layer, self.ops, self.eps = layer, ops, config.eps
        self.q = nn.Linear(config.width, config.width)
        self.k = nn.Linear(config.width, config.width)
        self.v = nn.Linear(config.width, config.width)
        self.o = nn.Linear(config.width, config.width)
        self.norm_q = nn.RMSNorm(config.width, config.eps)
        self.norm_k = nn.RMSNorm(config.width, config.eps)
        self.joined: Callable[[Tensor], Tensor] | None = None
        """Queries, keys and values by one product; set for inference only."""

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values before norm and rotation.  x, results: [B, N, E]."""
        if self.joined is None:
            return self.q(x), self.k(x), self.v(x)
        return self.joined(x).chunk(3, dim=-1)

    def forward(self, x: Tensor, table: Tensor, context: AttentionContext) -> Tensor:
        """x, result: [B, N, E].  table: [N, D/2, 2]."""
        q, k, v = self.project(x)
        norms = self.norm_q.weight, self.norm_k.weight
        seen = attend_rotated(self.ops, context, self.layer, q, k, v, norms, table, self.eps)
        out: Tensor = self.o(seen.flatten(2))
        return out


class CrossAttention(nn.Module):
    """Attention to the prompt, whose keys and values are made once.

    Padding rows are seen, as in the original.
    """

    def __init__(self, config: TransformerConfig, ops: Ops) -> None:
        super().__init__()
        self.ops, self.num_heads = ops, config.num_heads
        self.q = nn.Linear(config.width, config.width)
        self.k = nn.Linear(config.width, config.width)
        self.v = nn.Linear(config.width, config.width)
        self.o = nn.Linear(config.width, config.width)
        self.norm_q = nn.RMSNorm(config.width, config.eps)
        self.norm_k = nn.RMSNorm(config.width, config.eps)

    def keys_and_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """text: [B, N_text, E].  results: [B, N_text, A, D]."""
        heads = (self.num_heads, -1)
        return (
            torch.unflatten(self.norm_k(self.k(text)), 2, heads),
            torch.unflatten(self.v(text), 2, heads),
        )

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """x, result: [B, N, E].  k, v: [B, N_text, A, D], or [R B, ...] for R runs of tokens."""
        q = torch.unflatten(self.norm_q(self.q(x)), 2, (self.num_heads, -1))
        # Every run of tokens that has a text of its own counts as a sample of its own.
        q = q.reshape(len(k), -1, *q.shape[2:])
        seen = self.ops.attend(q, k, v, k.shape[1])
        out: Tensor = self.o(seen.reshape(x.shape))
        return out


class Residual(NamedTuple):
    """The residual stream x [B, N, E], and a branch [B, N, E] that is still to be added to it
    through a gate [B, G, E]; whoever reads it next adds and norms in one pass over memory.
    """

    x: Tensor
    branch: Tensor | None = None
    gate: Tensor | None = None

    def settle(self, ops: Ops) -> Tensor:
        """The residual stream with its branch."""
        if self.branch is None or self.gate is None:
            return self.x
        return ops.gate_add(self.x, self.branch, self.gate)


def _modulated(
    ops: Ops, residual: Residual, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The residual stream with its branch, and its modulated norm."""
    x, branch, gate = residual
    if branch is None:
        return x, ops.modulate(x, shift, scale, eps)
    return ops.gate_add_modulate(x, branch, gate, shift, scale, eps)


class Block(nn.Module):
    """One layer: self-attention, cross-attention and feed-forward, modulated by time."""

    def __init__(self, config: TransformerConfig, layer: int, ops: Ops) -> None:
        super().__init__()
        self.ops, self.eps = ops, config.eps
        self.self_attn = SelfAttention(config, layer, ops)
        self.norm3 = nn.LayerNorm(config.width, config.eps)
        self.cross_attn = CrossAttention(config, ops)
        self.ffn = nn.Sequential(
            nn.Linear(config.width, config.ffn_width),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_width, config.width),
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, config.width) / math.sqrt(config.width))

    def forward(
        self,
        residual: Residual,
        time: Tensor,
        table: Tensor,
        text_k: Tensor,
        text_v: Tensor,
        context: AttentionContext,
    ) -> Residual:
        """The residual stream before and after, its newest branch not yet added.

        time: [B, G, 6, E] for G equal runs of tokens.  text_k, text_v: see CrossAttention.
        """
        ops = self.ops
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (self.modulation + time).unbind(2)
        x, normed = _modulated(ops, residual, shift_a, scale_a, self.eps)
        seen = self.self_attn(normed, table, context)
        norm = self.norm3
        x, told = ops.gate_add_layer_norm(x, seen, gate_a, norm.weight, norm.bias, norm.eps)
        told = self.cross_attn(told, text_k, text_v)
        x, fed = ops.gate_add_modulate(x, told, None, shift_f, scale_f, self.eps)
        up, down = self.ffn[0], self.ffn[2]
        if isinstance(up, nn.Linear):
            wide = ops.linear_gelu(fed, up.weight, up.bias)
        else:
            wide = self.ffn[1](up(fed))
        return Residual(x, down(wide), gate_f)


class Head(nn.Module):
    """Tokens to patches of flow; inside a token: patch row, patch column, channel."""

    def __init__(self, config: TransformerConfig, ops: Ops) -> None:
        super().__init__()
        self.ops, self.eps = ops, config.eps
        self.head = nn.Linear(config.width, math.prod(config.patch) * config.out_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.width) / math.sqrt(config.width))

    def forward(self, residual: Residual, time: Tensor) -> Tensor:
        """result: [B, N, patch * C].  time: [B, G, E], before the projection to six vectors."""
        shift, scale = (self.modulation + time.unsqueeze(2)).unbind(2)
        out: Tensor = self.head(_modulated(self.ops, residual, shift, scale, self.eps)[1])
        return out


class CausalWanTransformer(nn.Module):
    """The Wan2.1 text-to-video transformer.  Holds weights only.

    gradient_checkpointing: keep only the input of each layer for the backward pass.
    """

    def __init__(self, config: TransformerConfig, ops: Ops | None = None) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        ops = ops or load_ops("torch")
        width = config.width
        self.patch_embedding = nn.Conv3d(config.in_channels, width, config.patch, config.patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_width, width),
            nn.GELU(approximate="tanh"),
            nn.Linear(width, width),
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(Block(config, layer, ops) for layer in range(config.num_layers))
        self.head = Head(config, ops)
        if config.learned_grid is not None:
            self.grid_embedding = nn.Parameter(torch.zeros(*config.learned_grid, width))
        if config.pooled_text:
            self.text_pooling = nn.Sequential(
                nn.Linear(config.text_length * config.text_width, width),
                nn.SiLU(),
                nn.Linear(width, width),
            )
        if config.learned_grid is not None and config.text_canvas:
            self.text_canvas = TextCanvas(
                config.text_length * config.text_width,
                config.text_canvas,
                config.in_channels,
                config.canvas_frames,
                config.learned_grid,
                config.patch[1:],
                width,
            )
            if config.predicts_clean:
                self.canvas_gate = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))
        if config.carries:
            self.carry = Carry(
                width,
                config.patch_size,
                config.num_heads,
                config.carries,
                config.num_layers,
                config.eps,
                ops,
            )

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights to train from, as Wan2.1: Xavier for linear maps, small embeddings, zero head."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for name, parameter in self.named_parameters():
            if name.startswith(("text_embedding.", "time_embedding.")) and parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        nn.init.zeros_(self.head.head.weight)
        if self.config.pooled_text:
            nn.init.zeros_(cast(nn.Linear, self.text_pooling[-1]).weight)
        if self.config.carries:
            self.carry.initialise()
        if self.config.text_canvas:
            self.text_canvas.initialise()
            if self.config.predicts_clean:
                gate = cast(nn.Linear, self.canvas_gate[-1])
                nn.init.zeros_(gate.weight)
                nn.init.constant_(gate.bias, _OPEN)

    def use(self, ops: Ops) -> None:
        """Compute with these operations from now on."""
        for module in self.modules():
            if isinstance(module, SelfAttention | CrossAttention | Block | Head | Carry):
                module.ops = ops

    def join_projections(self) -> None:
        """Make queries, keys and values of every layer with one product, for inference.

        Weights keep their names and are not held twice.  Call it when they lie where they stay.
        """
        for block in cast(Iterable[Block], self.blocks):
            attention = block.self_attn
            attention.joined = join((attention.q, attention.k, attention.v))

    def encode_text(self, embeds: Tensor) -> PromptKV:
        """What all layers need of a text, once per prompt.

        embeds: [B, n, text_width] from the text encoder, n <= text_length; missing rows are zeros.
        Raises ValueError when there are more rows than text_length.
        """
        missing = self.config.text_length - embeds.shape[1]
        if missing < 0:
            raise ValueError(
                f"the text has {embeds.shape[1]} rows, the model reads {self.config.text_length}"
            )
        rows = F.pad(embeds, (0, 0, 0, missing))
        text = self.text_embedding(rows)
        layers = cast(Iterable[Block], self.blocks)
        pairs = [block.cross_attn.keys_and_values(text) for block in layers]
        pooled = self.text_pooling(rows.flatten(1)) if self.config.pooled_text else None
        canvas = self.text_canvas(rows) if self.config.text_canvas else None
        keys, values = (torch.stack(layers) for layers in zip(*pairs, strict=True))
        return PromptKV(keys, values, pooled, canvas)

    def embed_time(self, timestep: Tensor) -> Tensor:
        """timestep, 0 (clean) to 1000 (noise): [B, G] -> [B, G, E].

        The sinusoid is evaluated in float64.
        """
        half = self.config.freq_width // 2
        steps = torch.arange(half, dtype=torch.float64, device=timestep.device)
        angles = timestep.double().unsqueeze(-1) * 10000.0 ** (-steps / half)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        embedded: Tensor = self.time_embedding(waves.to(self.head.modulation.dtype))
        return embedded

    def cut(self, latents: Tensor) -> Tensor:
        """[B, F, C, H, W] -> patches [B, N, C * patch], ordered frame, row, column."""
        _, rows, columns = self.config.patch
        patches = torch.unflatten(torch.unflatten(latents, 4, (-1, columns)), 3, (-1, rows))
        return patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)

    def uncut(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """Patches [B, N, C * patch] as `cut` makes them -> [B, F, C, H, W]."""
        inside = (self.config.out_channels, *self.config.patch[1:])
        parts = patches.reshape(len(patches), -1, rows, columns, *inside)
        return parts.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4)

    def patchify(self, latents: Tensor) -> Tensor:
        """[B, F, C, H, W] -> tokens [B, N, E], ordered frame, row, column."""
        patches = self.cut(latents)
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def unpatchify(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """[B, N, patch * C] -> [B, F, C, H, W] for rows x columns tokens per frame."""
        inside = (*self.config.patch[1:], self.config.out_channels)
        patches = tokens.reshape(len(tokens), -1, rows, columns, *inside)
        return patches.permute(0, 1, 6, 2, 4, 3, 5).flatten(5).flatten(3, 4)

    def forward(
        self, latents: Tensor, timestep: Tensor, text: PromptKV, context: AttentionContext
    ) -> Tensor:
        """The flow, noise minus clean, of every latent frame.

        latents, result: [B, F, C, H, W].  timestep: [B], or [B, G] for G equal runs of frames, such
            as every frame; 0 (clean) to 1000 (noise).
        text: of B samples, or of R B, the R texts of a sample for R equal runs of its frames.
        Raises ValueError when the patches do not tile the latents, or the context expects another
        pass.
        """
        num_frames, (rows, columns) = latents.shape[1], self.config.grid(*latents.shape[3:])
        time = self.embed_time(timestep if timestep.ndim == 2 else timestep.unsqueeze(1))
        if text.pooled is not None:
            time = _by_run(time, torch.unflatten(text.pooled, 0, (len(latents), -1)))
        vectors = torch.unflatten(self.time_projection(time), -1, (6, -1))
        x = self.patchify(latents)
        if self.config.learned_grid is not None:
            x = x + self.grid_embedding.flatten(0, 1).repeat(num_frames, 1)
        canvas = self._canvas(text, latents)
        if canvas is not None:
            x = x + self.text_canvas.tokens(canvas)
        table = context.rotary(
            num_frames, rows, columns, torch.unflatten(x, 2, (self.config.num_heads, -1))
        )
        is_checkpointed = self.gradient_checkpointing and torch.is_grad_enabled()
        if is_checkpointed:
            context = context.snapshot()
        residual = Residual(x)
        for layer, block in enumerate(self.blocks):
            inputs = (residual, vectors, table, text.k[layer], text.v[layer], context)
            if is_checkpointed:
                # Settled inside, so that one tensor a layer is kept.
                residual = Residual(checkpoint(_settled, block, *inputs, use_reentrant=False))
            else:
                residual = block(*inputs)
        told = self.unpatchify(self.head(residual, time), rows, columns)
        if not self.config.predicts_clean:
            return told
        x = residual.settle(self.head.ops)
        if canvas is not None:
            gate = torch.sigmoid(self.canvas_gate(x))
            told = told + self.uncut(gate * canvas, rows, columns)
        if self.config.carries:
            carried = self.carry(x, self.cut(latents), time, table, context)
            told = told + self.uncut(carried, rows, columns)
        sigma = (timestep / 1000).clamp(min=_LEAST_SIGMA).reshape(len(latents), -1, 1, 1, 1)
        return (latents - told) / sigma.repeat_interleave(num_frames // sigma.shape[1], 1)

    def _canvas(self, text: PromptKV, latents: Tensor) -> Tensor | None:
        """The canvas of every token, [B, N, C * patch], repeated along the frames of each run.

        A run that is no whole number of canvases ends with a part of one, as a start from a single
        picture does.
        """
        if text.canvas is None:
            return None
        runs = torch.unflatten(text.canvas, 0, (len(latents), -1))
        num_frames, here = latents.shape[1] // runs.shape[1], self.config.canvas_frames
        tokens = num_frames * (runs.shape[2] // here)
        return runs.repeat(1, 1, -(-num_frames // here), 1)[:, :, :tokens].flatten(1, 2)


def _settled(block: Block, *inputs: Any) -> Tensor:
    residual: Residual = block(*inputs)
    return residual.settle(block.ops)


def _by_run(time: Tensor, pooled: Tensor) -> Tensor:
    """Times [B, G, E] and the texts of R equal runs [B, R, E], added up for the finer runs."""
    groups, runs = time.shape[1], pooled.shape[1]
    if groups < runs:
        time = time.repeat_interleave(runs // groups, dim=1)
    return time + pooled.repeat_interleave(time.shape[1] // runs, dim=1)
