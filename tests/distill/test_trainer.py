import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from streamer.distill.checkpoints import ShardReader, find_checkpoints, write_shards
from streamer.distill.optimizer import Muon, build_optimizer, orthogonalise
from streamer.distill.trainer import Trainer, TrainerConfig
from streamer.errors import WeightsError


class Regression:
    """A small network learns a linear map; every batch comes from the step's generator."""

    def __init__(self, width: int = 20) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(16, width), nn.Tanh(), nn.Linear(width, 16))
        self.stop_at: int | None = None

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"network": self.network}

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("network",)

    def build_optimizer(self) -> Muon:
        return build_optimizer([self.network], muon_lr=0.01)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x = torch.randn(8, 16, generator=generator)
        loss = (self.network(x) - x.flip(1)).square().mean()
        return loss, {"square": loss.item()}

    def sample_sheet(self, path: Path) -> dict[str, float]:
        path.write_bytes(b"drawn")
        return {"held_out": 1.0}

    def export(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        torch.save(self.network.state_dict(), directory / "network.pt")


def run_steps(trainer: Trainer, count: int) -> list[dict[str, float]]:
    return [trainer.train_step() for _ in range(count)]


def test_three_steps_resume_three_steps_are_six_steps_to_the_bit(tmp_path: Path):
    straight = Trainer(Regression(), TrainerConfig(out=tmp_path / "a", max_steps=6))
    rows = run_steps(straight, 6)

    config = TrainerConfig(out=tmp_path / "b", max_steps=6)
    before = Trainer(Regression(), config)
    run_steps(before, 3)
    folder = before.save()
    run_steps(before, 1)
    after = Trainer(Regression(), config)
    after.resume(folder)
    resumed = run_steps(after, 3)

    assert [row["loss"] for row in resumed] == [row["loss"] for row in rows[3:]]
    wanted, found = straight.stage.modules["network"], after.stage.modules["network"]
    for name, value in wanted.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
    with straight.averaged_weights(), after.averaged_weights():
        for name, value in wanted.state_dict().items():
            assert torch.equal(value, found.state_dict()[name]), name
    log = [json.loads(line) for line in (tmp_path / "b" / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3, 4, 5, 6]


def test_a_termination_signal_ends_the_run_with_a_checkpoint(tmp_path: Path):
    stage = Regression()
    stage.stop_at = 2
    before = signal.getsignal(signal.SIGTERM)
    Trainer(stage, TrainerConfig(out=tmp_path, max_steps=1000)).train()
    assert [folder.name for folder in find_checkpoints(tmp_path)] == ["checkpoint-00000003"]
    assert (tmp_path / "sheet.png").exists()
    assert (tmp_path / "losses.png").stat().st_size > 0
    assert signal.getsignal(signal.SIGTERM) == before


def test_training_lowers_the_loss_and_ends_at_its_last_step(tmp_path: Path):
    trainer = Trainer(Regression(64), TrainerConfig(out=tmp_path, max_steps=150, warmup_steps=5))
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 150
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert rows[-1]["held_out"] == 1.0


def test_exports_and_sheets_see_the_average_and_training_goes_on_without_it(tmp_path: Path):
    trainer = Trainer(Regression(), TrainerConfig(out=tmp_path, max_steps=9, ema_decay=0.9))
    run_steps(trainer, 5)
    own = {name: p.clone() for name, p in trainer.stage.modules["network"].state_dict().items()}
    trainer.save()
    exported = torch.load(tmp_path / "export" / "network.pt")
    after = trainer.stage.modules["network"].state_dict()
    assert all(torch.equal(own[name], after[name]) for name in own)
    assert not torch.equal(exported["0.weight"], own["0.weight"])


@pytest.mark.parametrize("schedule", ["cosine", "trapezoid"])
def test_the_learning_rate_warms_up_and_falls_to_nearly_nothing(tmp_path: Path, schedule: str):
    config = TrainerConfig(out=tmp_path, max_steps=40, warmup_steps=4, schedule=schedule)  # type: ignore[arg-type]
    shares = [row["lr_share"] for row in run_steps(Trainer(Regression(), config), 40)]
    assert shares[0] == pytest.approx(0.25)
    assert max(shares) > 0.95
    assert shares[-1] < 0.1


def test_only_the_last_two_checkpoints_are_kept(tmp_path: Path):
    trainer = Trainer(Regression(), TrainerConfig(out=tmp_path, max_steps=9))
    for _ in range(4):
        trainer.train_step()
        trainer.save()
    assert [int(folder.name[-8:]) for folder in find_checkpoints(tmp_path)] == [3, 4]


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path):
    config = TrainerConfig(out=tmp_path, max_steps=9)
    folder = Trainer(Regression(20), config).save()
    with pytest.raises(WeightsError, match="the stage needs"):
        Trainer(Regression(24), config).resume(folder)


def test_a_loss_that_is_not_a_number_ends_the_run_before_the_weights_are_touched(tmp_path: Path):
    stage = Regression()
    trainer = Trainer(stage, TrainerConfig(out=tmp_path, max_steps=9))
    with torch.no_grad():
        stage.network[2].bias.fill_(torch.nan)
    first = stage.network[0].weight.clone()
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer.train_step()
    assert torch.equal(stage.network[0].weight, first)


def test_shards_stay_below_the_limit_and_join_to_the_same_tensors(tmp_path: Path):
    tensors = {
        "large": torch.randn(30, 11),
        "half": torch.randn(7, dtype=torch.float16),
        "count": torch.tensor(3),
        "small": torch.randn(2, 2, 2),
    }
    write_shards(tmp_path, tensors.items(), limit=400)
    shards = list(tmp_path.glob("*.safetensors"))
    assert len(shards) >= 4
    reader = ShardReader(tmp_path)
    assert reader.shapes == {name: tuple(value.shape) for name, value in tensors.items()}
    assert all(torch.equal(reader.read(name), value) for name, value in tensors.items())
    header_bytes = 600
    assert all(path.stat().st_size <= 400 + header_bytes for path in shards)


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (32, 32)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_sizes(shape: tuple[int, int]):
    """Newton-Schulz pushes singular values into 0.7..1.2; tiny ones need more than five rounds."""
    torch.manual_seed(0)
    rank = min(shape)
    u, _ = torch.linalg.qr(torch.randn(shape[0], rank, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(shape[1], rank, dtype=torch.float64))
    sizes = torch.linspace(0.3, 3.0, rank, dtype=torch.float64)
    matrix = (u * sizes) @ v.mT
    result = orthogonalise(matrix[None].float())[0].double()
    kept = u.mT @ result @ v
    assert (kept - kept.diagonal().diag()).abs().max() < 1e-4
    assert kept.diagonal().min() > 0.6
    assert kept.diagonal().max() < 1.3


def test_matrices_go_to_muon_and_the_rest_to_adam():
    network = nn.ModuleDict(
        {
            "wide": nn.Conv2d(16, 16, 3),
            "embedding": nn.Embedding(32, 16),
            "narrow": nn.Linear(16, 3),
        }
    )
    optimizer = build_optimizer([network])
    muon, adam = optimizer.param_groups
    assert [p.shape for p in muon["params"]] == [network["wide"].weight.shape]
    assert len(adam["params"]) == 4


def test_adam_follows_the_reference():
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(5))
    theirs = nn.Parameter(ours.detach().clone())
    module = nn.Module()
    module.register_parameter("bias", ours)
    optimizer = build_optimizer([module], adam_lr=0.01)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(5):
        gradient = torch.randn(5)
        ours.grad, theirs.grad = gradient, gradient.clone()
        optimizer.step()
        reference.step()
    # Both in float32, with the bias correction in another order.
    assert (ours - theirs).abs().max() < 1e-6


def test_parameters_without_a_gradient_stay_as_they_are():
    used, idle = nn.Linear(16, 16), nn.Linear(16, 16)
    optimizer = build_optimizer([used, idle])
    before = idle.weight.clone()
    used(torch.randn(4, 16)).square().mean().backward()
    optimizer.step()
    assert torch.equal(idle.weight, before)
