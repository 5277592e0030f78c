"""Does a stream last: its later seconds against its fifth, by the judge and by measures."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from streamer.distill.captions import Caption, sample_pair
from streamer.distill.classifier import AttributeClassifier
from streamer.distill.edition import SceneSpec
from streamer.distill.looks import judge, mean_look, measure_look
from streamer.distill.patches import Familiar
from streamer.distill.players import Player
from streamer.distill.report import (
    Change,
    Drift,
    EvaluationOptions,
    Look,
    Moment,
    StreamDrift,
)

FIRST_S = 5.0
"""When a stream has found itself: what comes later is compared with this second."""
_NUM_MOMENTS = 6


def judge_drift(
    player: Player,
    classifier: AttributeClassifier,
    renders: Sequence[Look],
    options: EvaluationOptions,
    familiar: Callable[[SceneSpec], Familiar] | None = None,
    teacher: Look | None = None,
) -> Drift:
    """Let streams run on, and compare their later seconds with their fifth.

    familiar: the patches of a spec's renders; None: foreign patches are not looked for.  teacher:
    what its clips look like, for the report.
    """
    rng = random.Random(options.seed + 1)
    streams = []
    for number in range(options.num_streams):
        spec, said = sample_pair(classifier.edition, rng)
        seed = options.seed + 10_000 + number
        patches = None if familiar is None else familiar(spec)
        moments = _watch(player, classifier, spec, said, seed, options.drift_s, patches)
        streams.append(_describe_end(said.text, seed, moments, renders))
    mean = [
        Moment(
            at_s=moments[0].at_s,
            score=statistics.fmean(moment.score for moment in moments),
            look=mean_look([moment.look for moment in moments]),
            foreign=_mean([moment.foreign for moment in moments]),
            foreign_share=_mean([moment.foreign_share for moment in moments]),
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
        table=tabulate(streams),
        teacher=teacher,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def tabulate(streams: Sequence[StreamDrift]) -> dict[str, Change]:
    """Each measure at the last moment against the first."""
    pairs = [(_measures(s.moments[0]), _measures(s.moments[-1])) for s in streams]
    table = {}
    for name in pairs[0][0]:
        first, last = [before[name] for before, _ in pairs], [after[name] for _, after in pairs]
        changes = [after - before for before, after in zip(first, last, strict=True)]
        worst = min(changes) if name == "score" else max(changes, key=abs)
        table[name] = Change(
            statistics.median(first), statistics.median(last), statistics.median(changes), worst
        )
    return table


def _measures(moment: Moment) -> dict[str, float]:
    """All numbers of a moment, by name."""
    found = {"score": moment.score, **asdict(moment.look)}
    if moment.foreign is not None and moment.foreign_share is not None:
        found |= {"foreign": moment.foreign, "foreign_share": moment.foreign_share}
    return found


def _watch(
    player: Player,
    classifier: AttributeClassifier,
    spec: SceneSpec,
    said: Caption,
    seed: int,
    drift_s: float,
    patches: Familiar | None,
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
            score = statistics.fmean(guess[name][0] == spec.of(name) for name in said.mentions)
            at_s = times[len(moments)]
            foreign = None if patches is None else patches.look(frames[-player.fps :: 4])
            moments.append(
                Moment(
                    at_s,
                    score,
                    measure_look(frames, player.fps),
                    None if foreign is None else foreign.distance,
                    None if foreign is None else foreign.share,
                )
            )
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
