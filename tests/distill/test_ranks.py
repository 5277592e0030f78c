"""Two processes train one network as one process does, and write what it reads."""

import json
import os
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor

from streamer.distill.blueprint import read_transformer
from streamer.distill.checkpoints import find_checkpoints
from streamer.distill.dmd_stage import DMDStage, DMDStageConfig
from streamer.distill.ranks import end_rank, join_ranks, rank, shard
from streamer.distill.trainer import Trainer, TrainerConfig
from streamer.errors import ConfigError
from tests.distill.tiny import SIZES, blueprint, clips, network


def new_trainer(out: Path, muon_lr: float) -> Trainer:
    # Of 63 rows the two ranks hold unequal parts.
    sizes = replace(SIZES, ffn_width=63, learned_grid=(2, 2))
    networks = [shard(network(seed, sizes)) for seed in (0, 1, 1)]
    config = DMDStageConfig(
        beginnings=2, clips=2, critic_updates=2, longest=6, data_weight=0.1,
        muon_lr=muon_lr, critic_muon_lr=muon_lr,
    )  # fmt: skip
    stage = DMDStage(blueprint(), *networks, clips(), torch.zeros(1, 3, 6), config)
    return Trainer(stage, TrainerConfig(out=out, max_steps=4, average_on_host=True))


def train(number: int, count: int, port: int, out: Path, muon_lr: float) -> None:
    """One rank: four steps in a row, and two and two with a resume between them."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    join_ranks("cpu")
    straight = new_trainer(out / "straight", muon_lr)
    rows = [straight.train_step() for _ in range(4)]
    straight.draw()
    straight.save()
    before = new_trainer(out / "resumed", muon_lr)
    for _ in range(2):
        before.train_step()
    before.save()
    after = new_trainer(out / "resumed", muon_lr)
    after.resume(find_checkpoints(out / "resumed")[-1])
    again = [after.train_step() for _ in range(2)]
    (out / f"rows-{rank()}.json").write_text(json.dumps([rows, again]))
    end_rank()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("muon_lr", [0.0, 2e-3], ids=["adam", "muon"])
def test_two_ranks_agree_resume_exactly_and_write_what_one_process_reads(
    tmp_path: Path, muon_lr: float
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(train, (2, port, tmp_path, muon_lr), nprocs=2)
    first, second = (json.loads((tmp_path / f"rows-{i}.json").read_text()) for i in (0, 1))
    losses = [[row["loss"] for row in rows] for rows in first]
    assert losses == [[row["loss"] for row in rows] for rows in second]
    assert losses[0][2:] == losses[1]
    assert len((tmp_path / "straight" / "losses.jsonl").read_text().splitlines()) == 4

    alone = new_trainer(tmp_path / "alone", muon_lr)
    alone.resume(find_checkpoints(tmp_path / "straight")[-1])
    assert alone.step == 4
    exported = read_transformer(tmp_path / "straight" / "export", SIZES)
    with alone.averaged_weights():
        for name, wanted in alone.stage.modules["student"].state_dict().items():
            # Exports are float16.
            torch.testing.assert_close(exported.state_dict()[name], wanted, atol=1e-3, rtol=1e-3)


def test_split_gradients_are_the_mean_of_the_ranks_own(tmp_path: Path):
    """Both ranks together make the step that one process makes of both ranks' clips."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(step_once, (port, tmp_path), nprocs=2)
    apart = torch.load(tmp_path / "after.pt")
    model = network()
    losses = [flow_loss(model, index) for index in (0, 1)]
    (sum(losses) / 2).backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(apart[name], parameter.grad, atol=1e-5, rtol=1e-4)


def flow_loss(model: torch.nn.Module, index: int) -> Tensor:
    from streamer.distill.scores import Score
    from tests.distill.tiny import LAYOUT

    rows = clips().rows(torch.tensor([index]))
    sigma = torch.full((1, rows.latents.shape[1]), 0.5)
    text = model.encode_text(rows.text[:, 0])  # type: ignore[operator]
    score = Score(model, "causal", LAYOUT)  # type: ignore[arg-type]
    flow = score.flow(rows.latents[:, :0], rows.latents, rows.latents, sigma, text)
    return flow.square().mean()


def step_once(number: int, port: int, out: Path) -> None:
    from streamer.distill.ranks import whole

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    join_ranks("cpu")
    model = shard(network())
    model.gradient_checkpointing = True
    flow_loss(model, number).backward()  # type: ignore[no-untyped-call]
    grads = {n: whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    if number == 0:
        torch.save(grads, out / "after.pt")
    end_rank()


class Reluctant:
    """Goes slowly, and tells when it has begun to."""

    def __init__(self) -> None:
        self.is_going = threading.Event()

    def __del__(self) -> None:
        self.is_going.set()
        time.sleep(0.3)


def hold_tensor(number: int, port: int) -> None:
    """One rank, whose group's thread still lets go of a tensor when the rank has finished."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    join_ranks("cpu")
    # Of its own: the default group's threads are awaited when the ranks meet at the end.
    group = torch.distributed.new_group(backend="gloo")
    tensor = torch.ones(1)
    tensor.held = Reluctant()  # type: ignore[attr-defined]
    is_going = tensor.held.is_going  # type: ignore[attr-defined]
    sent = torch.distributed.all_reduce(tensor, group=group, async_op=True)
    # The thread goes on after this process has let go, so that the last reference is the thread's.
    sent.get_future().then(lambda _: time.sleep(0.1))
    del sent, tensor
    assert is_going.wait(10)
    sys.modules["what a split network refers to"] = group  # type: ignore[assignment]
    end_rank()


def test_a_finished_rank_ends_well_whatever_its_threads_still_hold():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(hold_tensor, (port,), nprocs=2)


def test_a_numbered_device_is_refused_for_many_ranks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="cuda:1"):
        join_ranks("cuda:1")
    monkeypatch.delenv("WORLD_SIZE")
    assert join_ranks("cpu") == torch.device("cpu")
