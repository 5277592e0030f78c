"""Compile the Triton kernels ahead of time and read what the compiler made of them; no GPU needed.

    python -m streamer_kernels.check [--all]

The interpreter checks the arithmetic but knows no registers and no shared memory.  This checks the
rest: a kernel that spills, does not fit the shared memory or misses the tensor cores fails.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from streamer_kernels.attend_triton import (
    IS_INTERPRETED,
    OPERANDS,
    TILES,
    Tile,
    attend_kernel,
    pick_tile,
)

POINTERS = ("Q", "Q_sink", "K", "V", "Out")
LENGTHS = ("num_heads", "num_queries", "num_valid", "num_sink")
TYPE_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
COUNTED = ("HGMMA", "HMMA", "FFMA", "LDGSTS", "LDG", "LDL", "STL", "MUFU.EX2")


@dataclass(frozen=True)
class Target:
    """A kind of device: what a program may use of it, and its instruction for 16-bit products."""

    capability: int
    shared_bytes: int
    tensor_instruction: str


# Shared memory of one block: CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability".
TARGETS = (Target(80, 163 * 1024, "HMMA"), Target(90, 227 * 1024, "HGMMA"))


@dataclass(frozen=True)
class Case:
    """One variant of the kernel: head width, element type and tile."""

    head_width: int
    dtype: torch.dtype
    tile: Tile


@dataclass(frozen=True)
class Compiled:
    """What the compiler made: per thread registers, per thread spilled and per block shared bytes.

    instructions: how often each of `COUNTED` occurs in the machine code.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int
    instructions: dict[str, int] = field(default_factory=dict)


def find_faults(compiled: Compiled, target: Target, dtype: torch.dtype) -> list[str]:
    """Why a compiled kernel must not be shipped; empty when it may."""
    faults = []
    if compiled.spilled_bytes > 0:
        faults.append(f"spills {compiled.spilled_bytes} bytes a thread")
    if compiled.shared_bytes > target.shared_bytes:
        faults.append(
            f"needs {compiled.shared_bytes} bytes of shared memory, sm_{target.capability} has "
            f"{target.shared_bytes}"
        )
    if dtype.itemsize == 2 and not compiled.instructions.get(target.tensor_instruction):
        faults.append(f"has no {target.tensor_instruction}: the tensor cores are idle")
    return faults


def compile_attend(case: Case, target: Target) -> Compiled:
    """Compile one variant for one kind of device.

    Raises RuntimeError when TRITON_INTERPRET was set, and what the compiler raises.
    """
    if IS_INTERPRETED:
        raise RuntimeError("an interpreted kernel cannot be compiled; unset TRITON_INTERPRET")
    tile = case.tile
    constants = {
        "D": case.head_width,
        "WIDTH": case.head_width,
        "QUERIES": tile.queries,
        "KEYS": tile.keys,
        "STAGES": tile.num_stages,
        "OPERAND": OPERANDS[case.dtype],
    }
    names = attend_kernel.arg_names
    kinds = dict.fromkeys(names, "i32") | dict.fromkeys(constants, "constexpr")
    kinds |= dict.fromkeys(POINTERS, f"*{TYPE_NAMES[case.dtype]}") | {"scale": "fp32"}
    # A launch finds out by itself that pointers and strides are multiples of 16; without saying so
    # here, loads would be narrow and synchronous and the numbers would mean nothing.
    aligned = [i for i, name in enumerate(names) if _is_aligned(name, kinds[name])]
    source = ASTSource(
        fn=attend_kernel,
        signature=kinds,
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages, "enable_fp_fusion": True}
    kernel = triton.compile(source, GPUTarget("cuda", target.capability, 32), options)
    return _read_binary(kernel.asm["cubin"], kernel.metadata.shared)


def _is_aligned(name: str, kind: str) -> bool:
    return kind.startswith("*") or (kind == "i32" and name not in LENGTHS)


def _read_binary(binary: bytes, shared_bytes: int) -> Compiled:
    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        texts = [
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True)
            for flag in ("--dump-resource-usage", "--dump-sass")
        ]
    usage, code = (text.stdout for text in texts)
    found = re.search(r"REG:(\d+).*?STACK:(\d+).*?LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump told no registers: {usage.strip()!r}")
    registers, stack, local = (int(number) for number in found.groups())
    counts = {name: len(re.findall(rf"\b{re.escape(name)}\b", code)) for name in COUNTED}
    return Compiled(registers, max(stack, local), shared_bytes, counts)


def _cases(is_complete: bool) -> list[Case]:
    if not is_complete:
        return [Case(128, torch.bfloat16, pick_tile(2, 128))]
    kinds = {2: torch.bfloat16, 4: torch.float32}
    return [Case(width, kinds[size], tile) for (size, width), tile in TILES.items()]


def main() -> int:
    """Print one line for each variant and device; 1 when one of them has a fault."""
    parser = argparse.ArgumentParser(prog="streamer_kernels.check", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every row of the table of tiles")
    is_faulty = False
    for case in _cases(parser.parse_args().all):
        for target in TARGETS:
            compiled = compile_attend(case, target)
            counts = " ".join(f"{name}={n}" for name, n in compiled.instructions.items() if n)
            print(
                f"attend {TYPE_NAMES[case.dtype]} D={case.head_width} sm_{target.capability} "
                f"tile={case.tile.queries}x{case.tile.keys} warps={case.tile.num_warps} "
                f"stages={case.tile.num_stages}: registers={compiled.registers} "
                f"spilled_bytes={compiled.spilled_bytes} shared_bytes={compiled.shared_bytes} "
                f"{counts}"
            )
            for fault in find_faults(compiled, target, case.dtype):
                is_faulty = True
                print(f"  FAULT: {fault}")
    return int(is_faulty)


if __name__ == "__main__":
    raise SystemExit(main())
