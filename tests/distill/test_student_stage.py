"""The student's stage on a world of noise: tiny sizes, the real loss, the real rollouts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from streamer.distill import student_stage
from streamer.distill.blueprint import TRANSFORMER_FILE
from streamer.distill.checkpoints import find_checkpoints
from streamer.distill.data import build_shards, render_pairs
from streamer.distill.edition import load_edition
from streamer.distill.mistakes import AgeingClips, put_pieces, swap_tokens
from streamer.distill.shards import LatentClips, read_clips
from streamer.distill.student_stage import StudentStage, StudentStageConfig
from streamer.distill.trainer import Trainer, TrainerConfig
from streamer.distill.world import Renderer
from streamer.errors import WeightsError
from streamer.models.cache import RingLayout
from streamer.models.checkpoint import load_weights
from streamer.models.sampler import FlowMatchTable
from streamer.models.tiny_vae import TinyVAE, TinyVAEConfig
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

VAE = TinyVAEConfig(
    patch_size=2,
    latent_channels=4,
    decoder_channels=(8, 8, 4, 4),
    blocks_per_stage=1,
    convs_per_block=1,
    growth="shuffle",
    frames_to_trim=0,
    is_normalised=True,
)
SIZES = TransformerConfig(
    width=32,
    num_heads=2,
    ffn_width=64,
    num_layers=2,
    in_channels=4,
    out_channels=4,
    text_width=6,
    text_length=3,
    freq_width=16,
)


class Texts:
    """Encodes a text as numbers that depend on nothing but its letters."""

    text_length, text_width = 3, 6

    def encode(self, texts: list[str]) -> torch.Tensor:
        rows = [torch.Generator().manual_seed(sum(map(ord, text))) for text in texts]
        return torch.stack([torch.randn(3, 6, generator=row) for row in rows])


def write_clips(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name in ("held-out", "clips-00000"):
        save_file(
            {
                "latents": torch.randn(4, 9, 4, 4, 4, generator=generator).half(),
                "text": torch.randn(4, 2, 3, 6, generator=generator).half(),
                "switch": torch.tensor([0, 0, 1, 2]),
                "begins": torch.tensor([True, False, True, True]),
            },
            folder / f"{name}.safetensors",
        )
    return folder


def new_stage(folder: Path, sizes: TransformerConfig = SIZES, **config: float) -> StudentStage:
    return StudentStage(
        sizes,
        RingLayout(6, 0, 3),
        FlowMatchTable(1.0).steps([1000, 600, 300], warp=False),
        folder,
        TinyVAE(VAE).eval(),
        Texts(),
        StudentStageConfig(clips=4, **config),
        ("a dog",),
    )


@pytest.mark.parametrize("resampled_share", [0.0, 1.0])
def test_training_lowers_the_loss_on_what_it_sees(tmp_path: Path, resampled_share: float):
    stage = new_stage(write_clips(tmp_path), resampled_share=resampled_share, adam_lr=0.01)
    trainer = Trainer(stage, TrainerConfig(out=tmp_path / "run", max_steps=60, warmup_steps=2))
    losses = [trainer.train_step()["loss"] for _ in range(50)]
    assert sum(losses[-8:]) / 8 < 0.9 * sum(losses[:4]) / 4


def test_a_student_that_predicts_clean_latents_is_judged_by_them_at_every_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sizes = replace(SIZES, predicts_clean=True, carries=1)
    stage = new_stage(write_clips(tmp_path), sizes, motion_emphasis=0.0)
    clips = read_clips(tmp_path).rows(torch.arange(4))
    torch.nn.init.normal_(stage.student.head.head.weight, std=0.1)
    gaps: list[torch.Tensor] = []

    def keep(flow: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        gaps.append(flow - target)
        return gaps[-1].square().mean()

    monkeypatch.setattr(student_stage, "flow_matching_loss", keep)
    seen: list[torch.Tensor] = []
    plain = student_stage.to_clean

    def clean(*args: torch.Tensor) -> torch.Tensor:
        seen.append(plain(*args))
        return seen[-1]

    monkeypatch.setattr(student_stage, "to_clean", clean)
    stage._flow_loss(clips, torch.Generator().manual_seed(0))
    torch.testing.assert_close(gaps[0], clips.latents - seen[0], atol=1e-5, rtol=1e-4)


def test_a_resampled_history_is_made_by_the_student_and_stays_near_the_clip(tmp_path: Path):
    stage = new_stage(write_clips(tmp_path), resampled_share=1.0)
    chance = torch.Generator().manual_seed(1)
    slots = stage._ageing.draw(4, 1.0, stage._clips, chance)
    clips = stage._clips.rows(stage._ageing.rows[slots])
    made = stage._age(clips.latents, clips.text[:, 0], slots, chance)
    assert made.shape == clips.latents.shape
    assert not made.requires_grad
    assert not torch.allclose(made, clips.latents)
    together = torch.corrcoef(torch.stack([made.flatten(), clips.latents.flatten()]))[0, 1]
    assert together > 0.3


def test_a_history_ages_from_what_it_was_the_time_before_save_for_its_first_block(tmp_path: Path):
    stage = new_stage(write_clips(tmp_path), resampled_share=1.0)
    slots = stage._ageing.draw(4, 1.0, stage._clips, torch.Generator().manual_seed(1))
    clips = stage._clips.rows(stage._ageing.rows[slots])

    def age() -> torch.Tensor:
        chance = torch.Generator().manual_seed(2)
        return stage._age(clips.latents, clips.text[:, 0], slots, chance)

    once = age()
    assert stage._ageing.latents[slots].equal(once)
    twice = age()
    assert twice[:, :3].equal(once[:, :3])
    faults = [(made - clips.latents)[:, 3:].square().mean() for made in (once, twice)]
    assert faults[1] > 1.2 * faults[0]


def test_what_a_student_makes_of_a_history_is_bounded(tmp_path: Path):
    stage = new_stage(write_clips(tmp_path), resampled_share=1.0)
    torch.nn.init.normal_(stage.student.head.head.weight, std=50.0)
    slots = stage._ageing.draw(4, 1.0, stage._clips, torch.Generator().manual_seed(1))
    clips = stage._clips.rows(stage._ageing.rows[slots])
    made = stage._age(clips.latents, clips.text[:, 0], slots, torch.Generator().manual_seed(2))
    assert made.abs().max() == 16


def test_ageing_clips_are_of_one_world_and_are_true_again_after_a_while(tmp_path: Path):
    clips = read_clips(write_clips(tmp_path))
    ageing = AgeingClips(6, (9, 4, 4, 4))
    chance = torch.Generator().manual_seed(0)
    renewed = []
    for _ in range(200):
        slots = ageing.draw(2, 0.25, clips, chance)
        rows = ageing.rows[slots]
        assert not clips.switch[rows].any()
        is_new = (ageing.latents[slots] == clips.latents[rows]).flatten(1).all(1)
        renewed += is_new.tolist()
        ageing.latents[slots] += 1
    assert all(renewed[:2])
    assert 0.18 < sum(renewed) / len(renewed) < 0.33


def test_blocks_before_a_change_of_prompt_teach_nothing(tmp_path: Path):
    stage = new_stage(write_clips(tmp_path))
    clips = read_clips(tmp_path).rows(torch.tensor([3]))
    assert clips.switch.item() == 2
    changed = read_clips(tmp_path).rows(torch.tensor([3]))
    changed.text[:, 0] = 7.0
    first, _ = stage._flow_loss(clips, torch.Generator().manual_seed(0))
    second, _ = stage._flow_loss(changed, torch.Generator().manual_seed(0))
    assert first == second


def test_the_first_block_of_a_piece_from_the_middle_teaches_nothing(tmp_path: Path):
    stage = new_stage(write_clips(tmp_path))
    clips = read_clips(tmp_path).rows(torch.tensor([1]))
    assert not clips.begins.item()
    _, numbers = stage._flow_loss(clips, torch.Generator().manual_seed(0))
    assert numbers["x0_start"] == 0


def test_a_step_of_beginnings_trains_first_blocks_and_their_first_text(tmp_path: Path):
    stage = new_stage(write_clips(tmp_path), beginning_share=1.0, beginnings=8, adam_lr=0.01)
    assert stage._first_blocks.latents.shape == (3, 3, 4, 4, 4)
    assert stage._first_blocks.text[1, 1].equal(read_clips(tmp_path).text[2, 0])
    trainer = Trainer(stage, TrainerConfig(out=tmp_path / "run", max_steps=60, warmup_steps=2))
    losses = [trainer.train_step()["loss"] for _ in range(50)]
    assert sum(losses[-8:]) / 8 < 0.9 * sum(losses[:4]) / 4


def test_faults_in_a_token_that_moves_count_more(tmp_path: Path):
    stage = new_stage(write_clips(tmp_path), motion_emphasis=1.0)
    clean = torch.zeros(1, 9, 4, 4, 4)
    clean[:, 3:6, :, 2:, :2] = torch.arange(3.0)[:, None, None, None]  # in the second block
    counts = stage._emphasis(clean).square()
    moving = torch.zeros(1, 9, 1, 4, 4, dtype=torch.bool)
    moving[:, 3:6, :, 2:, :2] = True
    assert (counts[~moving] == 1).all()
    assert (counts[moving] == 1 + 8).all()
    everywhere = clean[..., 2:, :2].repeat(1, 1, 1, 2, 2)
    assert stage._emphasis(everywhere)[:, 3:6].unique().numel() == 1


def test_clips_of_one_block_are_beginnings():
    renderer = Renderer(load_edition("small"), height=64, width=64)
    made = render_pairs(renderer, 8, 12, 12, seed=5, leap_share=1.0)
    assert made.begins.all()
    assert not made.switch.any()
    assert not made.leaps.any()


def test_a_leap_joins_the_first_block_of_a_world_to_a_later_piece_of_it():
    renderer = Renderer(load_edition("small"), height=64, width=64)
    whole = render_pairs(renderer, 8, 36, 12, seed=5)
    made = render_pairs(renderer, 8, 36, 12, seed=5, leap_share=1.0)
    assert made.leaps.equal(~whole.begins & (whole.switch == 0))
    assert made.leaps.any()
    assert not made.leaps.all()
    assert made.begins.equal(whole.begins | made.leaps)
    assert made.frames[:, 12:].equal(whole.frames[:, 12:])
    assert made.frames[~made.leaps].equal(whole.frames[~made.leaps])
    for row in made.leaps.nonzero()[:, 0]:
        assert not made.frames[row, :12].equal(whole.frames[row, :12])


def test_neither_what_follows_a_leap_nor_the_first_of_a_piece_is_taught():
    yes, no = torch.tensor(True), torch.tensor(False)
    found = LatentClips(
        torch.zeros(4, 9, 1, 1, 1),
        torch.zeros(4, 2, 1, 1),
        torch.tensor([0, 0, 0, 2]),
        torch.stack([yes, no, yes, yes]),
        torch.stack([no, no, yes, no]),
    ).taught(3)
    wanted = [[1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 0, 1]]
    assert found[:, ::3].int().tolist() == wanted
    assert found.equal(found[:, ::3].repeat_interleave(3, 1))


def test_pieces_of_drifted_streams_lie_on_tokens_in_all_frames_from_some_block_on():
    generator = torch.Generator().manual_seed(0)
    history = torch.zeros(64, 9, 2, 10, 16)
    found = put_pieces(history, torch.ones(64, 3, 2, 10, 16), (2, 2), generator)
    changed = found != 0
    assert 0.05 < changed.float().mean() < 0.5
    assert changed.equal(changed[:, :, :1].expand_as(changed))
    corner = changed[..., ::2, ::2]
    assert corner.repeat_interleave(2, -1).repeat_interleave(2, -2).equal(changed)
    by_block = changed[:, ::3]
    assert (by_block[:, 1:] | ~by_block[:, :-1]).all()  # what is there stays there
    assert (by_block[:, 0] != by_block[:, 2]).any()
    assert changed.equal(by_block.repeat_interleave(3, 1))


def test_long_streams_of_the_student_are_kept_and_put_into_clips_of_their_text(tmp_path: Path):
    stage = new_stage(
        write_clips(tmp_path),
        drifted_share=1.0, drifted_blocks=2, drifted_streams=3, drift_every=2,
    )  # fmt: skip
    trainer = Trainer(stage, TrainerConfig(out=tmp_path / "run", max_steps=4))
    rows = [trainer.train_step() for _ in range(3)]
    assert all("x0_next_drifted" in row for row in rows)
    bank = stage.modules["drifted"]
    assert len(bank) == 6
    assert (stage._clips.switch[bank.rows[:6]] == 0).all()
    trainer.save()
    again = new_stage(
        tmp_path, drifted_share=1.0, drifted_blocks=2, drifted_streams=3, drift_every=2
    )
    resumed = Trainer(again, TrainerConfig(out=tmp_path / "run", max_steps=4))
    resumed.resume(find_checkpoints(tmp_path / "run")[-1])
    assert resumed.train_step()["loss"] == trainer.train_step()["loss"]


def test_swapped_tokens_stay_at_their_place_through_a_clip():
    latents = torch.arange(4.0)[:, None, None, None, None].expand(4, 3, 2, 20, 20).clone()
    generator = torch.Generator().manual_seed(0)
    assert swap_tokens(latents, 0.0, (2, 2), generator).equal(latents)
    swapped = swap_tokens(latents, 1.0, (2, 2), generator)
    changed = swapped != latents
    assert 0 < changed.float().mean() < 0.1
    assert changed.equal(changed[:, :1, :1].expand_as(changed))
    corner = changed[..., ::2, ::2]
    assert corner.repeat_interleave(2, -1).repeat_interleave(2, -2).equal(changed)
    assert swapped[changed].equal(latents.roll(1, 0)[changed])


def test_the_export_is_what_a_server_loads(tmp_path: Path):
    stage = new_stage(write_clips(tmp_path))
    stage.export(tmp_path / "export")
    fresh = CausalWanTransformer(SIZES)
    load_weights(fresh, [tmp_path / "export" / TRANSFORMER_FILE])
    for name, tensor in stage.student.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)


def test_a_sheet_shows_a_stream_of_each_example(tmp_path: Path):
    stage = new_stage(write_clips(tmp_path))
    scores = stage.sample_sheet(tmp_path / "sheet.png")
    assert scores["held_out_loss"] > 0
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_shards_are_built_once_and_resumed(tmp_path: Path):
    renderer = Renderer(load_edition("small"), height=64, width=64)
    vae = TinyVAE(VAE).eval()
    done: list[int] = []
    for count in (1, 2):
        build_shards(
            tmp_path,
            renderer,
            vae,
            Texts(),
            num_shards=count,
            num_latents=6,
            on_progress=done.append,
        )
    assert done == [1, 2, 1, 2, 3]
    clips = read_clips(tmp_path)
    assert clips.latents.shape[1:] == (6, 4, 4, 4)
    assert len(clips) == 2 * len(read_clips(tmp_path, held_out=True))
    with pytest.raises(WeightsError, match="no shards"):
        read_clips(tmp_path / "nowhere")


def test_pairs_are_the_same_for_the_same_seed_and_change_only_where_said():
    renderer = Renderer(load_edition("small"), height=64, width=64)
    made = render_pairs(renderer, 6, 24, 12, seed=5)
    again = render_pairs(renderer, 6, 24, 12, seed=5)
    assert made.frames.equal(again.frames)
    assert made.texts == again.texts
    assert made.switch.equal(again.switch)
    assert made.begins.equal(again.begins)
    assert set(made.switch.tolist()) <= {0, 1}
    assert all(a == b for (a, b), at in zip(made.texts, made.switch, strict=True) if at == 0)


def test_guidance_is_that_of_the_frozen_start_and_only_where_a_scene_begins(tmp_path: Path):
    stage = new_stage(write_clips(tmp_path), guidance=3.0)
    torch.nn.init.normal_(stage.student.head.head.weight, std=0.1)
    clips = read_clips(tmp_path).rows(torch.tensor([0]))

    def loss() -> float:
        return stage._flow_loss(clips, torch.Generator().manual_seed(0))[0].item()

    plain = loss()
    stage.begin_guidance()
    guided = loss()
    assert stage._guide is not None
    assert not any(p.requires_grad for p in stage._guide.parameters())
    # A guide that says nothing pulls the target of the first of three blocks to zero, no other.
    torch.nn.init.zeros_(stage._guide.head.head.weight)
    torch.nn.init.zeros_(stage._guide.head.head.bias)
    silent = loss()
    assert len({plain, guided, silent}) == 3
    assert silent < plain
