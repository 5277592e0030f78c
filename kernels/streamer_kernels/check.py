"""Compile the Triton kernels ahead of time and read what the compiler made of them; no GPU needed.

    python -m streamer_kernels.check [--all] [--only NAME]

The interpreter checks the arithmetic but knows no registers and no shared memory.  This checks the
rest: a kernel that spills, does not fit the shared memory or lacks the instructions that it is
claimed to use fails.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from streamer_kernels.check_cases import TYPE_NAMES, Case, cases
from streamer_kernels.launch import IS_INTERPRETED

COUNTED = (
    "HGMMA",
    "HMMA",
    "FFMA",
    "UTMALDG",
    "USETMAXREG",
    "LDGSTS",
    "LDG.E.128",
    "LDG",
    "STG",
    "LDL",
    "STL",
    "MUFU.EX2",
)


@dataclass(frozen=True)
class Target:
    """A kind of device: what a program may use of it."""

    capability: int
    shared_bytes: int


# Shared memory of one block: CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability".
TARGETS = (Target(80, 163 * 1024), Target(90, 227 * 1024))


@dataclass(frozen=True)
class Compiled:
    """What the compiler made: per thread registers, per thread spilled and per block shared bytes.

    num_warps: warps of a program, those with roles of their own included.
    instructions: how often each of `COUNTED` occurs in the machine code.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int
    num_warps: int
    instructions: dict[str, int] = field(default_factory=dict)


def find_faults(compiled: Compiled, target: Target, wanted: Iterable[str]) -> list[str]:
    """Why a compiled kernel must not be shipped; empty when it may.

    wanted: instructions that must occur.
    """
    faults = []
    if compiled.spilled_bytes > 0:
        faults.append(f"spills {compiled.spilled_bytes} bytes a thread")
    if compiled.shared_bytes > target.shared_bytes:
        faults.append(
            f"needs {compiled.shared_bytes} bytes of shared memory, sm_{target.capability} has "
            f"{target.shared_bytes}"
        )
    faults += [
        f"has no {name}, which it is claimed to use"
        for name in wanted
        if not compiled.instructions.get(name)
    ]
    return faults


def compile_case(case: Case, target: Target) -> Compiled:
    """Compile one variant for one kind of device.

    Raises RuntimeError when TRITON_INTERPRET was set, and what the compiler raises.
    """
    if IS_INTERPRETED:
        raise RuntimeError("an interpreted kernel cannot be compiled; unset TRITON_INTERPRET")
    source = ASTSource(
        fn=case.kernel,
        signature=case.signature(),
        constexprs=dict(case.constants),
        attrs={(index,): [["tt.divisibility", 16]] for index in case.aligned()},
    )
    options = {
        "num_warps": case.num_warps,
        "num_stages": case.num_stages,
        "enable_fp_fusion": True,
    }
    kernel = triton.compile(source, GPUTarget("cuda", target.capability, 32), options)
    return _read_binary(kernel.asm["cubin"], kernel.metadata.shared, kernel.metadata.num_warps)


def _read_binary(binary: bytes, shared_bytes: int, num_warps: int) -> Compiled:
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
    return Compiled(registers, max(stack, local), shared_bytes, num_warps, counts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for each variant and device; 1 when one of them has a fault."""
    parser = argparse.ArgumentParser(prog="streamer_kernels.check", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every row of the tables of tiles")
    parser.add_argument("--only", default="", help="variants whose name begins so")
    options = parser.parse_args(arguments)
    chosen = [case for case in cases(options.all) if case.name.startswith(options.only)]
    if not chosen:
        parser.error(f"no variant begins with {options.only!r}")
    is_faulty = False
    for case in chosen:
        for target in TARGETS:
            if target.capability not in case.targets:
                continue
            compiled = compile_case(case, target)
            counts = " ".join(f"{name}={n}" for name, n in compiled.instructions.items() if n)
            print(
                f"{case.name} {TYPE_NAMES[case.dtype]} sm_{target.capability} "
                f"warps={compiled.num_warps} stages={case.num_stages}: "
                f"registers={compiled.registers} spilled_bytes={compiled.spilled_bytes} "
                f"shared_bytes={compiled.shared_bytes} {counts}",
                flush=True,
            )
            for fault in find_faults(compiled, target, case.wanted.get(target.capability, ())):
                is_faulty = True
                print(f"  FAULT: {fault}")
    return int(is_faulty)


if __name__ == "__main__":
    raise SystemExit(main())
