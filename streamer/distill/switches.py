"""How soon a stream turns to a new prompt: until the judge sees its scene, or its subject."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray

from streamer.distill.captions import Caption, sample_pair
from streamer.distill.classifier import AttributeClassifier
from streamer.distill.edition import Edition
from streamer.distill.looks import BEST
from streamer.distill.players import Player, take
from streamer.distill.report import IN_TIME_S, LONGEST_SWITCH, EvaluationOptions, Switches
from streamer.distill.world import SceneSpec
from streamer.stream import FrameBlock

Said = tuple[SceneSpec, Caption]
"""What is to be seen, and the prompt that asks for it."""


def judge_switches(
    player: Player, classifier: AttributeClassifier, options: EvaluationOptions
) -> Switches:
    """Change the prompt of running streams to one with another scene, and count the blocks."""
    rng = random.Random(options.seed + 2)
    pairs = [draw_change(classifier.edition, rng) for _ in range(options.num_switches)]
    return _judge(player, classifier, options, pairs, "scene", 20_000)


def judge_subject_switches(
    player: Player, classifier: AttributeClassifier, options: EvaluationOptions
) -> Switches:
    """Change the prompt to one with another subject, in whatever place, and count the blocks."""
    rng = random.Random(options.seed + 4)
    pairs = [draw_change(classifier.edition, rng, "subject") for _ in range(options.num_switches)]
    return _judge(player, classifier, options, pairs, "subject", 30_000)


def draw_change(
    edition: Edition, rng: random.Random, attribute: str = "scene"
) -> tuple[Said, Said]:
    """Two captions that name different scenes, or different subjects."""
    absent = edition.no_subject_number if attribute == "subject" else -1

    def names_one(said: Said) -> bool:
        return attribute in said[1].mentions and said[0].of(attribute) != absent

    old = new = sample_pair(edition, rng)
    while not names_one(old):
        old = sample_pair(edition, rng)
    while not names_one(new) or new[0].of(attribute) == old[0].of(attribute):
        new = sample_pair(edition, rng)
    return old, new


def _judge(
    player: Player,
    classifier: AttributeClassifier,
    options: EvaluationOptions,
    pairs: Sequence[tuple[Said, Said]],
    attribute: str,
    first_seed: int,
) -> Switches:
    among = BEST if attribute == "subject" else 1
    blocks: list[int] = []
    num_never = num_already = 0
    for number, (old, new) in enumerate(pairs):
        wanted = new[0].of(attribute)
        prompts = {0: old[1].text, options.num_blocks: new[1].text}

        def shows(frames: NDArray[np.uint8], wanted: int = wanted) -> bool:
            return _sees(classifier, frames, attribute, wanted, among)

        with closing(player.play(options.seed + first_seed + number, prompts)) as stream:
            if shows(take(stream, options.num_blocks)):
                num_already += 1
                continue
            took = _blocks_until(stream, shows)
        blocks += [took] if took else []
        num_never += not took
    mean = statistics.fmean(blocks) if blocks else None
    most = IN_TIME_S * player.fps / player.block_frames
    counted = len(blocks) + num_never
    in_time = sum(took <= most for took in blocks) / counted if counted else None
    return Switches(tuple(blocks), mean, num_never, num_already, in_time)


def _blocks_until(stream: Iterator[FrameBlock], shows: Callable[[NDArray[np.uint8]], bool]) -> int:
    """Blocks until something is seen at a block's end; 0 for never."""
    for count in range(1, LONGEST_SWITCH + 1):
        if shows(take(stream, 1)):
            return count
    return 0


def _sees(
    classifier: AttributeClassifier,
    frames: NDArray[np.uint8],
    attribute: str,
    wanted: int,
    among: int,
) -> bool:
    picture = torch.from_numpy(np.ascontiguousarray(frames[-1])).permute(2, 0, 1)
    logits = classifier.classify_pictures(picture[None])[attribute][0]
    return wanted in logits.topk(min(among, len(logits))).indices.tolist()
