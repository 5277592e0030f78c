"""Does the video obey its prompt, does it last, how soon does it turn, how sharp can it be?

Streams are made by the same DiffusionStream that serves, one after the other, in this process, and
judged by the classifier of rendered clips.  Every number stands beside what the renderer itself
gets from the same judge, so that the judge's own faults are not counted as the model's.
"""

from __future__ import annotations

import datetime
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamer.config import Config
from streamer.distill.captions import Caption, caption, sample_pair
from streamer.distill.classifier import AttributeClassifier
from streamer.distill.drift import FIRST_S, judge_drift
from streamer.distill.edition import Edition
from streamer.distill.looks import BEST, Guess, judge, mean_look, measure_look
from streamer.distill.patches import Familiar
from streamer.distill.players import Player, take
from streamer.distill.report import (
    EvaluationOptions,
    EvaluationReport,
    Look,
    Obedience,
    Reconstruction,
    Synonyms,
)
from streamer.distill.switches import judge_subject_switches, judge_switches
from streamer.distill.teacher_clips import TeacherClips
from streamer.distill.world import Renderer, SceneSpec
from streamer.engine.diffusion import DiffusionModel
from streamer.errors import ConfigError
from streamer.models.vae import VideoVAE


def evaluate(
    model: DiffusionModel,
    config: Config,
    classifier: AttributeClassifier,
    options: EvaluationOptions,
    progress: Callable[[float], None] = lambda done: None,
    teacher: Path | None = None,
) -> EvaluationReport:
    """Judge a model.  progress: told how much is done, 0..1.

    teacher: an export of `teacher`, whose figures stand beside.
    Raises ConfigError when the options leave too little to judge, WeightsError for a teacher that
    does not fit.
    """
    started = time.monotonic()
    expected = _expected_blocks(options, config, model)
    player = Player(model, config, lambda count: progress(min(0.99, count / expected)))
    _check(options, player)
    clips = None
    if teacher is not None:
        steps, guidance = options.teacher_steps, options.teacher_guidance
        clips = TeacherClips.of(teacher, model, config, steps, guidance)
    renderer = open_renderer(config, classifier.edition)
    exam = draw_exam(renderer, model.decoder, options, classifier)
    made = watch_prompts(player, classifier, exam.captions, options)
    taught = None if clips is None else watch_teacher(clips, classifier, exam, options, player.fps)
    drift = None
    if options.num_streams:
        drift = judge_drift(
            player,
            classifier,
            exam.renders,
            options,
            lambda spec: Familiar.of(renderer, spec, options.seed),
            None if taught is None else mean_look([look for _, look in taught]),
        )
    switches = subjects = None
    if options.num_switches:
        switches = judge_switches(player, classifier, options)
        subjects = judge_subject_switches(player, classifier, options)
    synonyms = judge_synonyms(player, classifier, exam, made, options)
    progress(1.0)
    return EvaluationReport(
        model=config.name,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=str(model.device),
        threads=torch.get_num_threads(),
        seconds=round(time.monotonic() - started, 1),
        fps_generated=round(player.num_frames / player.seconds, 2),
        options=options,
        obedience=judge_obedience(
            classifier.edition, exam, made, None if taught is None else [g for g, _ in taught]
        ),
        drift=drift,
        switch_blocks=switches,
        reconstruction=exam.reconstruction,
        subject_switch_blocks=subjects,
        synonyms=synonyms,
        teacher=None if clips is None else clips.name,
    )


def open_renderer(config: Config, edition: Edition) -> Renderer:
    """What renders the world at the size of a model's pictures."""
    section = config.stream
    return Renderer(edition, "cpu", section.height, section.width, section.fps)


def _expected_blocks(options: EvaluationOptions, config: Config, model: DiffusionModel) -> float:
    prompts = (options.num_prompts + options.num_known) * options.num_blocks
    streams = options.num_streams * options.drift_s * config.stream.fps / model.max_frames
    return prompts + streams + 2 * options.num_switches * (options.num_blocks + 3)


def _check(options: EvaluationOptions, player: Player) -> None:
    if options.num_prompts < 1 or options.num_reconstructions < 1:
        raise ConfigError("an evaluation needs at least 1 prompt and 1 reconstruction")
    frames = options.num_blocks * player.block_frames
    if frames < player.clip_frames:
        raise ConfigError(
            f"{options.num_blocks} blocks make {frames} frames; the judge looks at "
            f"{player.clip_frames}: take at least {-(-player.clip_frames // player.block_frames)}"
        )
    if options.num_streams and options.drift_s < 2 * FIRST_S:
        raise ConfigError(f"drift takes at least {2 * FIRST_S:g} s; asked for {options.drift_s:g}")


# ---- the exam: captions that training never saw, and the renderer's own answers ------------------


@dataclass(frozen=True)
class Exam:
    """Held-out specs, what is said of them, and what the judge says of the renderer's clips.

    renders: the looks of the renderer's clips.  reconstructed: guesses for the first few clips
    after the autoencoder.
    """

    specs: tuple[SceneSpec, ...]
    captions: tuple[Caption, ...]
    rendered: tuple[Guess, ...]
    reconstructed: tuple[Guess, ...]
    renders: tuple[Look, ...]
    reconstruction: Reconstruction


def draw_exam(
    renderer: Renderer,
    decoder: VideoVAE,
    options: EvaluationOptions,
    classifier: AttributeClassifier,
) -> Exam:
    """Draw captions, and let the judge see the renderer's clips of them."""
    rng = random.Random(options.seed)
    edition, fps = renderer.edition, renderer.fps
    pairs = [sample_pair(edition, rng, held_out=True) for _ in range(options.num_prompts)]
    rendered, reconstructed, looks, decibels = [], [], [], []
    num_frames = 2 * fps
    for number, (spec, _) in enumerate(pairs):
        seed, start_s = rng.randrange(1 << 31), rng.random() * 60
        clip = renderer.render([spec], [seed], num_frames, start_s=start_s)[0]
        frames = clip.permute(0, 2, 3, 1).numpy()
        rendered.append(judge(classifier, frames, fps))
        looks.append(measure_look(frames, fps))
        if number < options.num_reconstructions:
            again, quality_db = reconstruct(decoder, clip)
            reconstructed.append(judge(classifier, again, fps))
            decibels.append(quality_db)
    return Exam(
        specs=tuple(spec for spec, _ in pairs),
        captions=tuple(said for _, said in pairs),
        rendered=tuple(rendered),
        reconstructed=tuple(reconstructed),
        renders=tuple(looks),
        reconstruction=Reconstruction(statistics.fmean(decibels), min(decibels), len(decibels)),
    )


@torch.inference_mode()
def reconstruct(vae: VideoVAE, clip: Tensor) -> tuple[NDArray[np.uint8], float]:
    """A clip, uint8 [T, 3, H, W], through the autoencoder: [T', H, W, 3], and its PSNR in dB.

    T' is smaller than T by the frames that the autoencoder drops at its start.
    """
    video = clip[None].to(next(vae.parameters()).device).float() / 255
    latents, _ = vae.encode(video)
    output, _ = vae.decode(latents)
    gap = output - video[:, video.shape[1] - output.shape[1] :]
    quality_db = float(-10 * gap.square().mean().clamp_min(1e-10).log10())
    pixels: NDArray[np.uint8] = (
        (output[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    )
    return pixels, quality_db


def watch_prompts(
    player: Player,
    classifier: AttributeClassifier,
    captions: Sequence[Caption],
    options: EvaluationOptions,
) -> list[Guess]:
    """What the judge sees in a fresh stream of each caption."""
    seen = []
    for number, said in enumerate(captions):
        with closing(player.play(options.seed + number, {0: said.text})) as stream:
            frames = take(stream, options.num_blocks)
        seen.append(judge(classifier, frames, player.fps))
    return seen


def watch_teacher(
    clips: TeacherClips,
    classifier: AttributeClassifier,
    exam: Exam,
    options: EvaluationOptions,
    fps: int,
) -> list[tuple[Guess, Look]]:
    """What the judge sees in the teacher's clips of the exam, and what they look like."""
    texts = [said.text for said in exam.captions]
    made = clips.make(texts, options.seed, options.num_blocks)
    return [(judge(classifier, frames, fps), measure_look(frames, fps)) for frames in made]


def judge_obedience(
    edition: Edition, exam: Exam, made: Sequence[Guess], taught: Sequence[Guess] | None = None
) -> dict[str, Obedience]:
    """What was recognised of each attribute; only what the caption mentions is scored.

    made, taught: guesses for the model's and the teacher's video of each caption.
    """

    def share(name: str, guesses: Sequence[Guess] | None, among: int) -> float | None:
        return None if guesses is None else _share_right(name, exam, guesses, among)

    return {
        name: Obedience(
            model=share(name, made, 1),
            classifier_on_renders=share(name, exam.rendered, 1),
            classifier_on_reconstructions=share(name, exam.reconstructed, 1),
            chance=1 / len(classes),
            num_scored=sum(name in said.mentions for said in exam.captions),
            teacher=share(name, taught, 1),
            top5_model=share(name, made, BEST),
            top5_classifier_on_renders=share(name, exam.rendered, BEST),
            top5_classifier_on_reconstructions=share(name, exam.reconstructed, BEST),
            top5_teacher=share(name, taught, BEST),
            top5_chance=min(1.0, BEST / len(classes)),
        )
        for name, classes in edition.attributes.items()
    }


def _share_right(name: str, exam: Exam, guesses: Sequence[Guess], among: int) -> float | None:
    """Of the captions that mention the attribute, the share that was recognised.

    among: so many of the likeliest classes count.
    """
    known = zip(exam.specs, exam.captions, guesses, strict=False)
    is_right = [
        spec.of(name) in guess[name][:among] for spec, said, guess in known if name in said.mentions
    ]
    return statistics.fmean(is_right) if is_right else None


def judge_synonyms(
    player: Player,
    classifier: AttributeClassifier,
    exam: Exam,
    made: Sequence[Guess],
    options: EvaluationOptions,
) -> Synonyms | None:
    """The exam's first specs again, in words that training knew; None when none is asked for."""
    specs = exam.specs[: options.num_known]
    if not specs:
        return None
    edition, rng = classifier.edition, random.Random(options.seed + 3)
    captions = [caption(edition, spec, rng) for spec in specs]
    seen = watch_prompts(player, classifier, captions, options)
    known = _recognised(edition, specs, captions, seen)
    unseen = _recognised(edition, specs, exam.captions, made)
    shares = [statistics.fmean(part) if part else None for part in (known, unseen)]
    points = None
    if shares[0] is not None and shares[1] is not None:
        points = 100 * (shares[0] - shares[1])
    return Synonyms(shares[0], shares[1], points, len(known), len(unseen))


def _recognised(
    edition: Edition,
    specs: Sequence[SceneSpec],
    captions: Sequence[Caption],
    guesses: Sequence[Guess],
) -> list[bool]:
    """Whether the judge saw what captions mention, of what has wordings that training never saw."""
    return [
        spec.of(name) == guess[name][0]
        for spec, said, guess in zip(specs, captions, guesses, strict=False)
        for name in sorted(said.mentions)
        if edition.held_out.get(name, {}).get(edition.name_of(spec, name))
    ]
