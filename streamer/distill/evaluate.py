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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamer.config import Config
from streamer.distill.captions import Caption, sample_pair
from streamer.distill.classifier import (
    CLIP_FPS,
    CLIP_FRAMES,
    AttributeClassifier,
    choose_frames,
)
from streamer.distill.edition import Edition
from streamer.distill.report import (
    LONGEST_SWITCH,
    Drift,
    EvaluationOptions,
    EvaluationReport,
    Look,
    Moment,
    Obedience,
    Reconstruction,
    StreamDrift,
    Switches,
)
from streamer.distill.world import Renderer, SceneSpec
from streamer.engine.diffusion import DiffusionModel
from streamer.errors import ConfigError
from streamer.models.vae import VideoVAE
from streamer.stream import FrameBlock, Prompt, StreamSpec

FIRST_S = 5.0
"""When a stream has found itself: what comes later is compared with this second."""
_NUM_MOMENTS = 6

Guess = dict[str, int]
"""What the judge says of one clip: a class number for each attribute."""


class Player:
    """Makes streams with a loaded model; counts the blocks, the frames and the time they took.

    Owned by one evaluation or one sheet.  on_block: told the number of blocks made so far.
    """

    def __init__(
        self,
        model: DiffusionModel,
        config: Config,
        on_block: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._model = model
        self._config = config
        self._on_block = on_block
        self.num_blocks = 0
        self.num_frames = 0
        self.seconds = 0.0

    @property
    def fps(self) -> int:
        """Frames of a second of video."""
        return self._config.stream.fps

    @property
    def block_frames(self) -> int:
        """Frames of a block."""
        return self._model.max_frames

    @property
    def clip_frames(self) -> int:
        """Frames that the judge needs to see."""
        return (CLIP_FRAMES - 1) * max(1, round(self.fps / CLIP_FPS)) + 1

    def play(self, seed: int, prompts: Mapping[int, str]) -> Generator[FrameBlock, None, None]:
        """An endless stream; prompts: texts by the block they take effect at, the first at 0.

        Changes come in by the configuration's own transition.
        """
        section = self._config.stream
        spec = StreamSpec(self._config.name, seed, section.width, section.height, section.fps)
        stream = self._model.open(spec)
        number = 0
        try:
            while True:
                text = prompts.get(number)
                events = () if text is None else (Prompt(f"p{number}", text),)
                started = time.perf_counter()
                block = stream.next_block(events)
                self.seconds += time.perf_counter() - started
                self.num_frames += len(block.frames)
                self.num_blocks += 1
                self._on_block(self.num_blocks)
                yield block
                number += 1
        finally:
            stream.close()


def take(stream: Iterator[FrameBlock], num_blocks: int) -> NDArray[np.uint8]:
    """The frames of the next blocks of a stream: [T, H, W, 3]."""
    return np.concatenate([next(stream).frames for _ in range(num_blocks)])


def evaluate(
    model: DiffusionModel,
    config: Config,
    classifier: AttributeClassifier,
    options: EvaluationOptions,
    progress: Callable[[float], None] = lambda done: None,
) -> EvaluationReport:
    """Judge a model.  progress: told how much is done, 0..1.

    Raises ConfigError when the options leave too little to judge.
    """
    started = time.monotonic()
    expected = _expected_blocks(options, config, model)
    player = Player(model, config, lambda count: progress(min(0.99, count / expected)))
    _check(options, player)
    exam = draw_exam(config, model.decoder, options, classifier)
    obedience = judge_obedience(player, classifier, exam, options)
    drift = judge_drift(player, classifier, exam.renders, options) if options.num_streams else None
    switches = judge_switches(player, classifier, options) if options.num_switches else None
    progress(1.0)
    return EvaluationReport(
        model=config.name,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=str(model.device),
        threads=torch.get_num_threads(),
        seconds=round(time.monotonic() - started, 1),
        fps_generated=round(player.num_frames / player.seconds, 2),
        options=options,
        obedience=obedience,
        drift=drift,
        switch_blocks=switches,
        reconstruction=exam.reconstruction,
    )


def _expected_blocks(options: EvaluationOptions, config: Config, model: DiffusionModel) -> float:
    prompts = options.num_prompts * options.num_blocks
    streams = options.num_streams * options.drift_s * config.stream.fps / model.max_frames
    return prompts + streams + options.num_switches * (options.num_blocks + 3)


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
    config: Config, decoder: VideoVAE, options: EvaluationOptions, classifier: AttributeClassifier
) -> Exam:
    """Draw captions, and let the judge see the renderer's clips of them."""
    rng = random.Random(options.seed)
    section = config.stream
    edition = classifier.edition
    renderer = Renderer(edition, "cpu", section.height, section.width, section.fps)
    pairs = [sample_pair(edition, rng, held_out=True) for _ in range(options.num_prompts)]
    rendered, reconstructed, looks, decibels = [], [], [], []
    num_frames = 2 * section.fps
    for number, (spec, _) in enumerate(pairs):
        seed, start_s = rng.randrange(1 << 31), rng.random() * 60
        clip = renderer.render([spec], [seed], num_frames, start_s=start_s)[0]
        frames = clip.permute(0, 2, 3, 1).numpy()
        rendered.append(judge(classifier, frames, section.fps))
        looks.append(measure_look(frames, section.fps))
        if number < options.num_reconstructions:
            again, quality_db = reconstruct(decoder, clip)
            reconstructed.append(judge(classifier, again, section.fps))
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


def judge(classifier: AttributeClassifier, frames: NDArray[np.uint8], fps: int) -> Guess:
    """What the judge sees at the end of some frames [T, H, W, 3]."""
    logits = classifier.classify(choose_frames(frames, fps)[None])
    return {name: int(values[0].argmax()) for name, values in logits.items()}


def judge_obedience(
    player: Player, classifier: AttributeClassifier, exam: Exam, options: EvaluationOptions
) -> dict[str, Obedience]:
    """A fresh stream for each caption; only what the caption mentions is scored."""
    made = []
    for number, said in enumerate(exam.captions):
        with closing(player.play(options.seed + number, {0: said.text})) as stream:
            frames = take(stream, options.num_blocks)
        made.append(judge(classifier, frames, player.fps))
    return {
        name: Obedience(
            model=_share_right(name, exam, made),
            classifier_on_renders=_share_right(name, exam, exam.rendered),
            classifier_on_reconstructions=_share_right(name, exam, exam.reconstructed),
            chance=1 / len(classes),
            num_scored=sum(name in said.mentions for said in exam.captions),
        )
        for name, classes in classifier.edition.attributes.items()
    }


def _share_right(name: str, exam: Exam, guesses: Sequence[Guess]) -> float | None:
    """Of the captions that mention the attribute, the share that was recognised."""
    known = zip(exam.specs, exam.captions, guesses, strict=False)
    is_right = [
        guess[name] == spec.of(name) for spec, said, guess in known if name in said.mentions
    ]
    return statistics.fmean(is_right) if is_right else None


# ---- drift --------------------------------------------------------------------------------------


def measure_look(frames: NDArray[np.uint8], fps: int) -> Look:
    """Measure the last second of some frames, [T, H, W, 3]."""
    last = frames[-fps:].astype(np.float32)
    red, green, blue = (float(value) for value in last.mean((0, 1, 2)))
    bright = last @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    middle = bright[:, 1:-1, 1:-1]
    around = bright[:, :-2, 1:-1] + bright[:, 2:, 1:-1] + bright[:, 1:-1, :-2] + bright[:, 1:-1, 2:]
    step = max(1, fps // CLIP_FPS)
    return Look(
        red=red,
        green=green,
        blue=blue,
        contrast=float(bright.std((1, 2)).mean()),
        saturation=float((last.max(-1) - last.min(-1)).mean()),
        sharpness=float(np.abs(around - 4 * middle).mean()),
        motion=float(np.abs(bright[step:] - bright[:-step]).mean()),
    )


def mean_look(looks: Sequence[Look]) -> Look:
    """The mean of every measure."""
    return Look(*(statistics.fmean(column) for column in zip(*map(astuple, looks), strict=True)))


def judge_drift(
    player: Player,
    classifier: AttributeClassifier,
    renders: Sequence[Look],
    options: EvaluationOptions,
) -> Drift:
    """Let streams run on, and compare their later seconds with their fifth."""
    rng = random.Random(options.seed + 1)
    streams = []
    for number in range(options.num_streams):
        spec, said = sample_pair(classifier.edition, rng)
        seed = options.seed + 10_000 + number
        moments = _watch(player, classifier, spec, said, seed, options.drift_s)
        streams.append(_describe_end(said.text, seed, moments, renders))
    mean = [
        Moment(
            at_s=moments[0].at_s,
            score=statistics.fmean(moment.score for moment in moments),
            look=mean_look([moment.look for moment in moments]),
        )
        for moments in zip(*(stream.moments for stream in streams), strict=True)
    ]
    return Drift(
        mean=tuple(mean),
        streams=tuple(streams),
        renders=mean_look(renders),
        num_frozen=sum(stream.is_frozen for stream in streams),
        num_grey=sum(stream.is_grey for stream in streams),
        num_exploded=sum(stream.is_exploded for stream in streams),
    )


def _watch(
    player: Player,
    classifier: AttributeClassifier,
    spec: SceneSpec,
    said: Caption,
    seed: int,
    drift_s: float,
) -> tuple[Moment, ...]:
    """Make one stream and look at it at FIRST_S and at times spread evenly up to drift_s."""
    times = [float(at_s) for at_s in np.linspace(FIRST_S, drift_s, _NUM_MOMENTS)]
    kept = -(-player.clip_frames // player.block_frames)
    newest: list[NDArray[np.uint8]] = []
    moments: list[Moment] = []
    with closing(player.play(seed, {0: said.text})) as stream:
        for block in stream:
            newest = [*newest, block.frames][-kept:]
            if (block.first_frame + len(block.frames)) / player.fps < times[len(moments)]:
                continue
            frames = np.concatenate(newest)
            guess = judge(classifier, frames, player.fps)
            score = statistics.fmean(guess[name] == spec.of(name) for name in said.mentions)
            at_s = times[len(moments)]
            moments.append(Moment(at_s, score, measure_look(frames, player.fps)))
            if len(moments) == len(times):
                break
    return tuple(moments)


def _describe_end(
    text: str, seed: int, moments: tuple[Moment, ...], renders: Sequence[Look]
) -> StreamDrift:
    last = moments[-1].look
    return StreamDrift(
        caption=text,
        seed=seed,
        moments=moments,
        is_frozen=last.motion < 0.5 * min(look.motion for look in renders),
        is_grey=last.contrast < 0.5 * min(look.contrast for look in renders),
        is_exploded=last.sharpness > 2 * max(look.sharpness for look in renders),
    )


# ---- prompt changes -----------------------------------------------------------------------------


def judge_switches(
    player: Player, classifier: AttributeClassifier, options: EvaluationOptions
) -> Switches:
    """Change the prompt of running streams to one with another scene, and count the blocks."""
    rng = random.Random(options.seed + 2)
    blocks: list[int] = []
    num_never = num_already = 0
    for number in range(options.num_switches):
        old, new = draw_change(classifier.edition, rng)
        scene = new[0].scene
        prompts = {0: old[1].text, options.num_blocks: new[1].text}
        with closing(player.play(options.seed + 20_000 + number, prompts)) as stream:
            if _sees(classifier, take(stream, options.num_blocks), scene):
                num_already += 1
                continue
            took = _blocks_until(stream, classifier, scene)
        blocks += [took] if took else []
        num_never += not took
    mean = statistics.fmean(blocks) if blocks else None
    return Switches(tuple(blocks), mean, num_never, num_already)


def draw_change(
    edition: Edition,
    rng: random.Random,
) -> tuple[tuple[SceneSpec, Caption], tuple[SceneSpec, Caption]]:
    """Two captions that name different scenes."""
    old = new = sample_pair(edition, rng)
    while "scene" not in old[1].mentions:
        old = sample_pair(edition, rng)
    while "scene" not in new[1].mentions or new[0].scene == old[0].scene:
        new = sample_pair(edition, rng)
    return old, new


def _blocks_until(stream: Iterator[FrameBlock], classifier: AttributeClassifier, scene: int) -> int:
    """Blocks until a scene is seen at a block's end; 0 for never."""
    for count in range(1, LONGEST_SWITCH + 1):
        if _sees(classifier, take(stream, 1), scene):
            return count
    return 0


def _sees(classifier: AttributeClassifier, frames: NDArray[np.uint8], scene: int) -> bool:
    picture = torch.from_numpy(np.ascontiguousarray(frames[-1])).permute(2, 0, 1)
    logits = classifier.classify_pictures(picture[None])
    return int(logits["scene"][0].argmax()) == scene
