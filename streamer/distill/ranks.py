"""Ranks: one run in one process or, under torchrun, in many that share the work and the memory.

Weights, gradients and the optimiser's state are split over the ranks (FSDP2); a layer is whole only
while it is used.  With one process every function here does nothing.  All ranks call the same
functions in the same order; what decides the order must be the same on all of them.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from streamer.errors import ConfigError
from streamer.models.transformer import Block, CausalWanTransformer


def join_ranks(device: str) -> torch.device:
    """Meet the other processes that torchrun has started, if it has; the device of this one.

    device: cpu, cuda or cuda:N; with many ranks each takes the GPU of its local number.
    Raises ConfigError when a device of one number is asked for by many ranks.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return torch.device(device)
    if ":" in device:
        raise ConfigError(f"--device {device}: with torchrun each rank takes its own; use cuda")
    is_gpu = device == "cuda"
    here = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if is_gpu else torch.device(device)
    if is_gpu:
        torch.cuda.set_device(here)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if is_gpu else "gloo")
        atexit.register(leave_ranks)
        # What our layers return is never changed in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    if not is_main():
        logging.getLogger("streamer").setLevel(logging.WARNING)
    return here


def leave_ranks() -> None:
    """Part from the other processes, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end_rank(status: int = 0) -> None:
    """End this process as one of many ranks; with one process return.

    status: what the process ends with.  At 0 it waits for the others, of which one may still need
    it; a rank that has failed waits for nobody.

    The interpreter is not taken down.  The group's threads live on as long as a split network
    refers to the group, and the last reference to a tensor that was sent may be theirs.  Before
    Python 3.14 a thread that lets go of one while the interpreter goes down is unwound through a
    destructor, and the whole process ends with SIGABRT ("terminate called without an active
    exception"), after all its work is done.
    """
    if num_ranks() == 1:
        return
    if status == 0:
        wait_for_ranks()
        leave_ranks()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and logs."""
    return rank() == 0


def wait_for_ranks() -> None:
    """Return when all ranks are here."""
    if num_ranks() > 1:
        dist.barrier()


def largest(value: float) -> float:
    """The largest of a number over all ranks, the same on each."""
    return _reduced(value, dist.ReduceOp.MAX)


def mean(value: float) -> float:
    """The mean of a number over all ranks, the same on each."""
    return _reduced(value, dist.ReduceOp.SUM) / num_ranks()


def shard(network: CausalWanTransformer) -> CausalWanTransformer:
    """Split a network over the ranks, layer by layer; call it before an optimiser is built.

    result: the same network.  Its parameters are now the part of this rank.
    """
    if num_ranks() == 1:
        return network
    for block in cast(Iterable[Block], network.blocks):
        # Texts are encoded outside of the layer's own pass, so this part is a unit of its own.
        fully_shard(block.cross_attn)
        register_fsdp_forward_method(block.cross_attn, "keys_and_values")
        fully_shard(block)
    # The outermost unit, too: else its weights would stay whole after a pass without a backward,
    # and a later pass would use those of before an update.
    fully_shard(network, reshard_after_forward=True)
    register_fsdp_forward_method(network, "encode_text")
    return network


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """A whole tensor, from the parts of all ranks.

    tensor: a split one; or the part of this rank, split as `like` is.
    """
    if isinstance(like, DTensor) and not isinstance(tensor, DTensor):
        tensor = DTensor.from_local(
            tensor.to(like.device),
            like.device_mesh,
            like.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this rank holds when it is split as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    split = distribute_tensor(
        tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )
    return split.to_local()


def _reduced(value: float, kind: dist.ReduceOp.RedOpType) -> float:
    if num_ranks() == 1:
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, kind)
    return tensor.item()
