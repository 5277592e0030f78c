"""What `check.py` compiles: every kernel at the shapes of the models, and what must be found in it.

Sizes: Wan2.1 1.3B (12 heads of 128, width 1536, feed-forward 8960) and 14B (width 5120).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from triton.runtime import JITFunction

from streamer_kernels.attend_hopper_triton import attend_hopper_kernel
from streamer_kernels.attend_merge_triton import attend_merge_kernel
from streamer_kernels.attend_pointer_triton import attend_pointer_kernel
from streamer_kernels.attend_triton import (
    HOPPER,
    HOPPER_TILES,
    MERGED_ROWS,
    TILES,
    Tile,
    padded_width,
    pick_tile,
)
from streamer_kernels.attend_views import MAX_SPANS
from streamer_kernels.gate_add_triton import gate_add_kernel
from streamer_kernels.gelu_triton import BLOCK as GELU_BLOCK
from streamer_kernels.gelu_triton import NUM_WARPS as GELU_WARPS
from streamer_kernels.gelu_triton import bias_gelu_kernel
from streamer_kernels.i420 import BLUE, LUMA, RED
from streamer_kernels.i420_triton import NUM_WARPS as I420_WARPS
from streamer_kernels.i420_triton import PAIRS, to_i420_kernel
from streamer_kernels.launch import OPERANDS, power_of_two, row_warps
from streamer_kernels.merge_triton import NUM_WARPS as MERGE_WARPS
from streamer_kernels.merge_triton import merge_kernel
from streamer_kernels.modulate_triton import modulate_kernel
from streamer_kernels.qk_norm_rope_triton import qk_norm_rope_kernel, rotate_kernel
from streamer_kernels.quantise import LARGEST, SMALLEST
from streamer_kernels.quantise_triton import BLOCK as QUANTISE_BLOCK
from streamer_kernels.quantise_triton import quantise_rows_kernel

TYPE_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
FLOAT_POINTERS = frozenset(
    {"Lse", "Partial", "Partial_lse", "Table", "Sink_table", "Scales", "K_scales", "V_scales"}
    | {"A_sum", "B_sum", "Out_sum"}
)
CODES = {"int8": "*i8", "fp8": "*fp8e4nv"}
INTEGER_POINTERS = {"Pieces": "*i32", "Spans": "*i32", "Merges": "*i32", "Slots": "*i64"}
SCALARS = frozenset({"scale", "eps"})
ALIGNED_ENDINGS = ("_batch", "_token", "_head", "_slot", "_group", "num_columns", "height", "width")
WIDTHS = (1536,)
ALL_WIDTHS = (1536, 5120)
FFN_WIDTHS = {1536: 8960, 5120: 13824}


@dataclass(frozen=True)
class Case:
    """One variant of one kernel.

    dtype: of the pointers that no other rule names.  pointers: those that need another type.
    constants: the compile-time arguments.  wanted: instructions that must occur, by capability.
    targets: the capabilities to compile for.
    """

    name: str
    kernel: JITFunction
    dtype: torch.dtype
    constants: Mapping[str, object]
    num_warps: int
    num_stages: int = 1
    pointers: Mapping[str, str] = field(default_factory=dict)
    wanted: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    targets: tuple[int, ...] = (80, 90)

    def signature(self) -> dict[str, str]:
        """The type of every argument, as Triton writes it."""
        return {name: self._type(name) for name in self.kernel.arg_names}

    def aligned(self) -> list[int]:
        """The arguments that are multiples of 16 at the shapes of the models.

        A launch finds that out by itself; without it, loads would be narrow and synchronous and the
        numbers would mean nothing.
        """
        return [
            index
            for index, (name, kind) in enumerate(self.signature().items())
            if kind.startswith("*") or (kind == "i32" and name.endswith(ALIGNED_ENDINGS))
        ]

    def _type(self, name: str) -> str:
        if name in self.constants:
            return "constexpr"
        if name in self.pointers:
            return self.pointers[name]
        if name in INTEGER_POINTERS:
            return INTEGER_POINTERS[name]
        if name in FLOAT_POINTERS:
            return "*fp32"
        if name[0].isupper():
            return f"*{TYPE_NAMES[self.dtype]}"
        return "fp32" if name in SCALARS else "i32"


def cases(is_complete: bool) -> list[Case]:
    """What the 1.3B model is served with; with is_complete also 14B, float32 and every tile."""
    widths = ALL_WIDTHS if is_complete else WIDTHS
    return [*_attend_cases(is_complete), *_row_cases(widths), *_pixel_cases()]


def attend_case(
    width: int, dtype: torch.dtype, tile: Tile, has_lse: bool = False, codes: str | None = None
) -> Case:
    """The pointer form of attention for heads of this width; codes: of an eight-bit ring."""
    is_half = dtype.itemsize == 2
    name = f"attend D={width} {tile.queries}x{tile.keys}" + (" lse" if has_lse else "")
    constants = _attend_constants(width, dtype, tile, has_lse)
    return Case(
        name=name + (f" ring={codes}" if codes else ""),
        kernel=attend_pointer_kernel,
        dtype=dtype,
        constants=constants | {"HAS_SCALES": codes is not None},
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        # Tensor cores, and copies that do not wait.
        wanted={80: ("HMMA", "LDGSTS"), 90: ("HGMMA", "LDGSTS")} if is_half else {},
        pointers={"K": CODES[codes], "V": CODES[codes]} if codes else {},
    )


def hopper_case(width: int, tile: Tile, has_lse: bool = False) -> Case:
    """The Hopper form of attention for heads of this width."""
    constants = _attend_constants(width, torch.bfloat16, tile, has_lse) | {"HAS_ROLES": True}
    return Case(
        name=f"attend-hopper D={width} {tile.queries}x{tile.keys}" + (" lse" if has_lse else ""),
        kernel=attend_hopper_kernel,
        dtype=torch.bfloat16,
        constants=constants,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        wanted={90: ("HGMMA", "UTMALDG", "USETMAXREG")},
        targets=(90,),
    )


def _attend_constants(
    width: int, dtype: torch.dtype, tile: Tile, has_lse: bool
) -> dict[str, object]:
    return {
        "D": width,
        "WIDTH": padded_width(width),
        "QUERIES": tile.queries,
        "KEYS": tile.keys,
        "STAGES": tile.num_stages,
        "OPERAND": OPERANDS[dtype],
        "SPANS": MAX_SPANS,
        "HAS_LSE": has_lse,
    }


def _attend_cases(is_complete: bool) -> list[Case]:
    bf16 = torch.bfloat16
    found = [attend_case(128, bf16, pick_tile(2, 128, HOPPER), has_lse=True)]
    found += [hopper_case(128, HOPPER_TILES[128], has_lse=True)]
    found += _coded_cases(128)
    found += [_merge_case(128, pick_tile(2, 128, HOPPER).queries), _library_merge_case(12, 128)]
    if is_complete:
        kinds = {2: bf16, 4: torch.float32}
        found += [attend_case(width, kinds[size], tile) for (size, width), tile in TILES.items()]
        found += [hopper_case(width, tile) for width, tile in HOPPER_TILES.items()]
        found += _coded_cases(64)
        found += [_merge_case(64, pick_tile(2, 64, HOPPER).queries)]
    return found


def _coded_cases(width: int) -> list[Case]:
    """The pointer form over rings of codes, with the tile that each device takes."""
    found = []
    for codes in CODES:
        # There is no e4m3 before sm_89.
        for target in (HOPPER,) if codes == "fp8" else (80, HOPPER):
            tile = pick_tile(2, width, target, is_coded=True)
            case = attend_case(width, torch.bfloat16, tile, codes=codes)
            found.append(replace(case, targets=(target,)))
    return found


def _merge_case(width: int, queries: int) -> Case:
    return Case(
        name=f"attend-merge D={width}",
        kernel=attend_merge_kernel,
        dtype=torch.bfloat16,
        constants={
            "D": width,
            "WIDTH": width,
            "QUERIES": queries,
            "ROWS": MERGED_ROWS,
            "HAS_LSE": True,
        },
        num_warps=4,
    )


def _library_merge_case(heads: int, width: int) -> Case:
    """What puts the runs of a library's attention together."""
    return Case(
        name=f"merge {heads}x{width}",
        kernel=merge_kernel,
        dtype=torch.bfloat16,
        constants={"HEADS": power_of_two(heads), "D": width, "WIDTH": width},
        num_warps=MERGE_WARPS,
        wanted=dict.fromkeys((80, 90), ("LDG.E.128",)),
    )


def _row_cases(widths: tuple[int, ...]) -> list[Case]:
    found = []
    for width in widths:
        row = {"E": width, "WIDTH": power_of_two(width)}
        gated = row | {"HAS_GATE": True, "HAS_NORM": True, "ADDS_ONE": True}
        turned = row | {"D": 128, "HAS_RING": True, "HAS_SINK": True} | _codes_constants(None)
        for name, kernel, constants in (
            ("modulate", modulate_kernel, row),
            ("gate-add-modulate", gate_add_kernel, gated),
            ("qk-norm-rope-write", qk_norm_rope_kernel, turned),
            ("rotate", rotate_kernel, row | {"D": 128}),
        ):
            found.append(
                Case(
                    name=f"{name} E={width}",
                    kernel=kernel,
                    dtype=torch.bfloat16,
                    constants=constants,
                    num_warps=row_warps(width),
                    # Sixteen bytes to a load: eight channels.
                    wanted=dict.fromkeys((80, 90), ("LDG.E.128",)),
                )
            )
        found.append(_quantise_case(width, "fp8"))
        found.append(_quantise_case(FFN_WIDTHS[width], "fp8", has_gelu=True))
        found += [_write_case(width, codes) for codes in CODES]
    # A head of the cache, of which several go to one program.
    return [*found, _quantise_case(128, "int8")]


def _codes_constants(codes: str | None) -> dict[str, object]:
    return {
        "HAS_SCALES": codes is not None,
        "LARGEST": LARGEST[codes or "int8"],
        "SMALLEST": SMALLEST,
        "IS_INTEGER": codes != "fp8",
    }


def _write_case(width: int, codes: str) -> Case:
    """The way into an eight-bit ring."""
    return Case(
        name=f"qk-norm-rope-write E={width} ring={codes}",
        kernel=qk_norm_rope_kernel,
        dtype=torch.bfloat16,
        constants={"E": width, "WIDTH": power_of_two(width), "D": 128, "HAS_RING": True}
        | {"HAS_SINK": True}
        | _codes_constants(codes),
        num_warps=row_warps(width),
        pointers={"K_out": CODES[codes], "V_out": CODES[codes]},
        wanted=dict.fromkeys((80, 90), ("LDG.E.128",)),
        targets=(90,) if codes == "fp8" else (80, 90),
    )


def _quantise_case(width: int, kind: str, has_gelu: bool = False) -> Case:
    padded = power_of_two(width)
    rows = max(1, QUANTISE_BLOCK // padded)
    return Case(
        name=f"{'gelu-' * has_gelu}quantise-rows {kind} E={width}",
        kernel=quantise_rows_kernel,
        dtype=torch.bfloat16,
        constants={
            "E": width,
            "WIDTH": padded,
            "ROWS": rows,
            "LARGEST": LARGEST[kind],
            "SMALLEST": SMALLEST,
            "IS_INTEGER": kind == "int8",
            "HAS_GELU": has_gelu,
        },
        num_warps=row_warps(rows * padded),
        pointers={"Codes": CODES[kind]},
        # There is no e4m3 before sm_89.
        targets=(80, 90) if kind == "int8" else (90,),
    )


def _pixel_cases() -> list[Case]:
    return [
        Case(
            name="bias-gelu",
            kernel=bias_gelu_kernel,
            dtype=torch.bfloat16,
            constants={"BLOCK": GELU_BLOCK},
            num_warps=GELU_WARPS,
            wanted=dict.fromkeys((80, 90), ("LDG.E.128",)),
        ),
        Case(
            name="to-i420",
            kernel=to_i420_kernel,
            dtype=torch.bfloat16,
            constants={"PAIRS": PAIRS, "LUMA": LUMA, "BLUE": BLUE, "RED": RED},
            num_warps=I420_WARPS,
            pointers={"Pictures": "*u8", "Out": "*u8"},
        ),
    ]
