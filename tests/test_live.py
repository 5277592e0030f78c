"""The loop of one stream, in virtual time."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from streamer.delivery.fanout import Broadcast
from streamer.errors import OutOfMemoryError, OutputError, StreamStateError, WorkerDiedError
from streamer.live import LiveStream
from streamer.server.protocol import SeedApplied
from streamer.stream import (
    Economy,
    Prompt,
    Reseed,
    Restored,
    Script,
    Transition,
    TransitionKind,
)
from tests.fakes import FRAMES, FakeBroadcast, FakeClient, FakeEngine, VirtualTime, pattern_config

FIRST = Prompt("p1", "a red balloon")


class Stage:
    """One stream with its fakes."""

    def __init__(self, block_s: float = 0.3, prompt: Prompt = FIRST, **server: object) -> None:
        self.time = VirtualTime()
        self.engine = FakeEngine(block_s, self.time.sleep)
        self.broadcast = FakeBroadcast(self.time.clock)
        self.client = FakeClient(origin=1000)
        self.ended: list[LiveStream] = []
        self.stream = LiveStream(
            "s-1",
            pattern_config(**server),
            self.engine,
            prompt,
            7,
            broadcast=cast("Broadcast", self.broadcast),
            clock=self.time.clock,
            sleep=self.time.sleep,
            on_ended=self.ended.append,
        )

    def begin(self, *, is_watched: bool = True) -> None:
        self.stream.attach(self.client)
        if is_watched:
            self.stream.watch(self.client)
        self.stream.begin()

    @property
    def states(self) -> list[str]:
        return [cast("Any", message).state for message in self.client.of("status")]

    @property
    def prompts_made(self) -> list[tuple[int, str]]:
        return [(i, e.id) for i, es in self.engine.made for e in es if isinstance(e, Prompt)]

    def num_frames(self) -> int:
        return len(self.broadcast.pushed)


@pytest.fixture
async def new_stage() -> AsyncIterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(*args: Any, **kwargs: Any) -> Stage:
        stages.append(Stage(*args, **kwargs))
        return stages[-1]

    yield make
    for stage in stages:
        await stage.stream.end("the test is over")


async def test_a_stream_plays_its_frames_in_order_at_its_own_rate(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage()
    stage.begin()
    await stage.time.run(10.0)
    numbers = [frame.number for _, frame in stage.broadcast.pushed]
    assert numbers == list(range(len(numbers)))
    times = [time for time, frame in stage.broadcast.pushed][3 * FRAMES :]
    assert (len(times) - 1) / (times[-1] - times[0]) == pytest.approx(16, rel=0.03)
    assert stage.states == ["playing"]


async def test_the_first_frame_of_a_prompt_is_told_with_each_clients_own_timestamp(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage()
    reader = FakeClient(origin=None)
    stage.stream.attach(reader)
    stage.begin()
    await stage.time.run(3.0)
    accepted = stage.stream.set_prompt(Prompt("p2", "snow"))
    await stage.time.run(3.0)
    first = next(frame for _, frame in stage.broadcast.pushed if frame.prompt_id == "p2")
    told = [cast("Any", message) for message in stage.client.of("prompt_applied")]
    assert [message.prompt_id for message in told] == ["p1", "p2"]
    assert told[1].frame == first.number
    assert told[1].block == first.block == accepted.block
    assert told[1].rtp_timestamp == 1000 + first.pts
    assert [cast("Any", m).rtp_timestamp for m in reader.of("prompt_applied")] == [None, None]


async def test_a_prompt_is_on_its_way_about_when_it_was_promised(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage()
    stage.begin()
    await stage.time.run(5.1)
    asked_s = stage.time.now
    accepted = stage.stream.set_prompt(Prompt("p2", "snow"))
    await stage.time.run(3.0)
    shown_s = next(at for at, frame in stage.broadcast.pushed if frame.prompt_id == "p2")
    assert shown_s - asked_s == pytest.approx(accepted.applies_in_s, abs=0.15)


async def test_the_newest_prompt_wins_and_a_superseded_one_is_gone(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage()
    stage.begin()
    await stage.time.run(3.0)
    stage.stream.set_prompt(Prompt("p2", "snow"))
    stage.stream.set_prompt(Prompt("p3", "rain"))
    await stage.time.run(3.0)
    assert [prompt for _, prompt in stage.prompts_made] == ["p1", "p3"]
    assert "snow" not in stage.stream.script()
    assert [cast("Any", m).prompt_id for m in stage.client.of("prompt_applied")] == ["p1", "p3"]


async def test_a_prompt_set_while_waiting_for_room_takes_effect_in_the_very_next_block(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(block_s=0.05)
    stage.begin()
    await stage.time.run(2.6)
    made = len(stage.engine.made)
    accepted = stage.stream.set_prompt(Prompt("p2", "snow"))
    assert accepted.block == made
    await stage.time.run(2.0)
    assert stage.prompts_made[-1] == (made, "p2")


async def test_a_prompt_set_while_a_block_is_made_takes_effect_in_the_one_after_it(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(block_s=2.0)
    stage.begin()
    await stage.time.run(5.0)
    being_made = len(stage.engine.made)
    accepted = stage.stream.set_prompt(Prompt("p2", "snow"))
    await stage.time.run(5.0)
    assert stage.prompts_made[-1] == (accepted.block, "p2") == (being_made + 1, "p2")


async def test_two_prompts_on_their_way_are_each_told_with_their_own_first_frame(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(block_s=0.7)
    stage.begin()
    await stage.time.run(2.0)
    accepted = stage.stream.set_prompt(Prompt("p2", "snow"))
    while accepted.block not in stage.engine.started:
        await stage.time.run(0.05)
    stage.stream.set_prompt(Prompt("p3", "rain"))
    await stage.time.run(5.0)
    told = {cast("Any", m).prompt_id: m for m in stage.client.of("prompt_applied")}
    firsts = {frame.prompt_id: frame for _, frame in reversed(stage.broadcast.pushed)}
    assert list(told) == ["p1", "p2", "p3"]
    assert {key: cast("Any", m).frame for key, m in told.items()} == {
        key: frame.number for key, frame in firsts.items()
    }


async def test_a_prompt_whose_id_was_used_before_is_still_reported(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage()
    stage.begin()
    await stage.time.run(2.0)
    stage.stream.set_prompt(Prompt("p1", "snow"))
    await stage.time.run(3.0)
    told = [cast("Any", message).text for message in stage.client.of("prompt_applied")]
    assert told == ["a red balloon", "snow"]


async def test_a_new_seed_is_an_event_of_the_next_block(new_stage: Callable[..., Stage]) -> None:
    stage = new_stage()
    stage.begin()
    await stage.time.run(2.0)
    stage.stream.set_seed(12)
    await stage.time.run(2.0)
    assert [e for _, es in stage.engine.made for e in es if isinstance(e, Reseed)] == [Reseed(12)]
    assert stage.stream.info(None).seed == 12


async def test_everybody_is_told_of_a_new_seed_with_its_first_frame_and_who_comes_late_sees_it(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage()
    viewer = FakeClient()
    stage.stream.attach(viewer)
    stage.begin()
    await stage.time.run(2.0)
    stage.stream.set_seed(11)
    stage.stream.set_seed(12)
    assert stage.stream.info(None).seed == 12
    assert stage.stream.changes.seed_shown == 7
    await stage.time.run(2.0)
    (block,) = [i for i, es in stage.engine.made for e in es if isinstance(e, Reseed)]
    first = next(frame for _, frame in stage.broadcast.pushed if frame.block == block)
    wanted = SeedApplied(seed=12, block=block, frame=first.number)
    assert viewer.of("seed_applied") == stage.client.of("seed_applied") == [wanted]
    assert stage.stream.changes.seed_shown == stage.stream.info(None).seed == 12
    script = Script.read(io.StringIO(stage.stream.script()))
    assert script.at(block) == (Reseed(12),)


async def test_a_paused_stream_makes_and_shows_nothing_and_goes_on_where_it_was(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage()
    stage.begin()
    await stage.time.run(3.0)
    stage.stream.pause()
    await stage.time.run(1.0)
    frames, blocks = stage.num_frames(), len(stage.engine.made)
    await stage.time.run(60.0)
    assert (stage.num_frames(), len(stage.engine.made)) == (frames, blocks)
    stage.stream.resume()
    await stage.time.run(3.0)
    numbers = [frame.number for _, frame in stage.broadcast.pushed]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > frames + 2 * FRAMES
    assert stage.states == ["playing", "paused", "playing"]


async def test_a_stream_paused_during_a_restart_stays_paused(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(block_s=2.0)
    stage.engine.failures[1] = WorkerDiedError("killed by signal 9")
    stage.begin()
    await stage.time.run(4.5)
    assert stage.states[-1] == "restoring"
    stage.stream.pause()
    await stage.time.run(10.0)
    assert stage.states == ["playing", "restoring", "paused"]


async def test_a_worker_that_dies_under_a_paused_stream_leaves_it_paused(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(block_s=2.0)
    stage.engine.failures[1] = WorkerDiedError("killed by signal 9")
    stage.begin()
    await stage.time.run(3.0)
    stage.stream.pause()
    await stage.time.run(10.0)
    assert stage.states == ["playing", "paused", "restoring", "paused"]


async def test_a_stream_nobody_watches_is_parked_and_comes_back(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(park_after_s=20.0)
    stage.begin()
    await stage.time.run(5.0)
    stage.stream.unwatch(stage.client)
    await stage.time.run(19.0)
    assert stage.stream.holds_place
    while stage.stream.state != "parked":
        await stage.time.run(0.02)
    assert stage.stream.playout.queued_frames == 0
    await stage.time.run(5.0)
    assert stage.states == ["playing", "parked"]
    assert stage.engine.num_open == 0
    blocks = len(stage.engine.made)
    await stage.time.run(100.0)
    assert len(stage.engine.made) == blocks
    stage.stream.watch(stage.client)
    await stage.time.run(3.0)
    assert stage.states == ["playing", "parked", "restoring", "playing"]
    assert stage.engine.restored_at == [blocks]
    script = Script.read(io.StringIO(stage.stream.script()))
    assert script.at(blocks) == (Restored(),)
    assert stage.broadcast.pushed[-1][1].block >= blocks


async def test_a_paused_stream_is_parked_too_and_is_still_paused_afterwards(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(park_after_s=20.0)
    stage.begin()
    await stage.time.run(5.0)
    stage.stream.pause()
    stage.stream.unwatch(stage.client)
    await stage.time.run(25.0)
    assert stage.states[-1] == "parked"
    assert stage.engine.num_open == 0
    stage.stream.watch(stage.client)
    assert stage.states[-1] == "paused"
    stage.stream.resume()
    await stage.time.run(3.0)
    assert stage.states[-1] == "playing"


async def test_a_stream_nobody_ever_watched_is_parked(new_stage: Callable[..., Stage]) -> None:
    stage = new_stage(park_after_s=5.0)
    stage.begin(is_watched=False)
    await stage.time.run(8.0)
    assert stage.stream.state == "parked"
    assert not stage.stream.holds_place


async def test_a_stream_gives_up_its_place_at_once_when_asked_unless_it_is_watched(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(park_after_s=20.0)
    stage.begin()
    await stage.time.run(3.0)
    stage.stream.park()
    assert stage.stream.holds_place
    stage.stream.unwatch(stage.client)
    stage.stream.park()
    assert not stage.stream.holds_place
    await stage.time.run(1.0)
    assert stage.stream.state == "parked"


async def test_a_stream_nobody_came_back_to_ends_and_frees_everything(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(park_after_s=5.0, forget_after_s=30.0)
    stage.begin()
    await stage.time.run(3.0)
    stage.stream.unwatch(stage.client)
    await stage.time.run(35.0)
    assert stage.states == ["playing", "parked", "ended"]
    assert stage.ended == [stage.stream]
    assert stage.broadcast.is_closed
    assert stage.engine.num_open == 0


async def test_a_dead_worker_is_a_pause_and_the_script_loses_nothing(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage()
    stage.engine.failures[5] = WorkerDiedError("killed by signal 9")
    stage.begin()
    await stage.time.run(2.0)
    stage.stream.set_prompt(Prompt("p2", "snow"))
    await stage.time.run(8.0)
    assert stage.states == ["playing", "restoring", "playing"]
    assert cast("Any", stage.client.of("status")[1]).detail
    assert stage.engine.restored_at == [5]
    assert [index for index, _ in stage.engine.made] == list(range(len(stage.engine.made)))
    numbers = [frame.number for _, frame in stage.broadcast.pushed]
    assert numbers == list(range(len(numbers)))
    script = Script.read(io.StringIO(stage.stream.script()))
    assert [event.id for _, event in script.prompts_before(99)] == ["p1", "p2"]
    assert script.at(5) == (Restored(),)


async def test_out_of_memory_ends_that_one_stream_with_its_reason(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage()
    stage.engine.failures[2] = OutOfMemoryError("stream s-1 needs 2 GB more than there is")
    stage.begin()
    await stage.time.run(5.0)
    (error,) = stage.client.of("error")
    assert cast("Any", error).code == "out_of_memory"
    assert "2 GB" in cast("Any", error).message
    assert stage.states == ["playing", "ended"]
    assert stage.ended == [stage.stream]
    assert stage.engine.num_open == 0


async def test_an_encoder_that_fails_ends_the_stream_instead_of_freezing_it(
    new_stage: Callable[..., Stage], caplog: pytest.LogCaptureFixture
) -> None:
    stage = new_stage()
    stage.begin()
    await stage.time.run(2.0)
    stage.broadcast.failure = ValueError("no such pixel format")
    await stage.time.run(1.0)
    assert stage.states[-1] == "ended"
    assert cast("Any", stage.client.of("error")[0]).code == "engine_failed"
    assert "no such pixel format" in caplog.text


async def test_an_ended_stream_cannot_be_steered_or_joined(new_stage: Callable[..., Stage]) -> None:
    stage = new_stage()
    stage.begin()
    await stage.time.run(1.0)
    await stage.stream.end("the director stopped it")
    await stage.stream.end("twice is the same as once")
    assert cast("Any", stage.client.of("status")[-1]).detail == "the director stopped it"
    for attempt in (
        lambda: stage.stream.set_prompt(FIRST),
        lambda: stage.stream.set_seed(1),
        stage.stream.pause,
        stage.stream.resume,
        lambda: stage.stream.attach(stage.client),
        lambda: stage.stream.watch(stage.client),
    ):
        with pytest.raises(StreamStateError, match="has ended"):
            attempt()


async def test_the_script_is_written_as_the_stream_goes(
    new_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    blend = Prompt("p1", "a red balloon", Transition(TransitionKind.BLEND, 4))
    stage = new_stage(prompt=blend, script_dir=str(tmp_path / "scripts"))
    stage.begin()
    await stage.time.run(2.0)
    stage.stream.set_prompt(Prompt("p2", "snow"))
    await stage.time.run(2.0)
    written = (tmp_path / "scripts" / "s-1.jsonl").read_text()
    assert written == stage.stream.script()
    rows = [json.loads(line) for line in written.splitlines()]
    assert [row["type"] for row in rows] == ["spec", "prompt", "prompt"]
    assert [row["transition"]["kind"] for row in rows[1:]] == ["blend", "swap"]


def test_a_script_folder_that_cannot_be_made_is_an_error_before_anything_starts(
    tmp_path: Path,
) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="taken"):
        Stage(script_dir=str(tmp_path / "taken" / "scripts"))


class FullDisk(io.StringIO):
    """A file whose disk is full: neither writing nor the last flush of closing works."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_full_disk_ends_the_stream_clearly_and_frees_everything() -> None:
    stage = Stage()
    stage.begin()
    await stage.time.run(2.0)
    disk = FullDisk()
    stage.stream._script_file = stage.stream._driver._file = disk
    stage.stream.set_prompt(Prompt("p2", "snow"))
    await stage.time.run(2.0)
    assert cast("Any", stage.client.of("error")[-1]).code == "output_unwritable"
    assert stage.states[-1] == "ended"
    assert stage.ended == [stage.stream]
    assert stage.engine.num_open == 0


async def test_statistics_come_once_a_second_and_are_true(new_stage: Callable[..., Stage]) -> None:
    stage = new_stage(block_s=0.4)
    stage.begin()
    await stage.time.run(10.02)
    told = [cast("Any", message) for message in stage.client.of("statistics")]
    assert len(told) == 10
    last = told[-1]
    assert last.fps_generated == pytest.approx(FRAMES / 0.4, rel=0.01)
    assert last.block_ms == pytest.approx(400, rel=0.01)
    assert last.fps_played == pytest.approx(16, abs=1.1)
    assert last.viewers == 1
    assert last.dropped == 0
    assert last.block == len(stage.engine.made) - 1


async def test_a_slow_generator_lowers_the_shown_playback_rate(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(block_s=1.0)
    stage.begin()
    await stage.time.run(30.0)
    last = cast("Any", stage.client.of("statistics")[-1])
    assert last.playback_rate == pytest.approx(12 / 16, abs=0.06)
    assert last.fps_played == pytest.approx(12, abs=1.1)


async def test_the_wait_before_the_first_block_does_not_count_as_its_making(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(park_after_s=5.0)
    stage.begin()
    await stage.time.run(3.0)
    restore = stage.engine.restore

    async def slow_restore(truth: Any) -> Any:
        await stage.time.sleep(4.0)
        return await restore(truth)

    stage.engine.restore = slow_restore  # type: ignore[method-assign]
    stage.stream.unwatch(stage.client)
    await stage.time.run(8.0)
    stage.stream.watch(stage.client)
    await stage.time.run(8.0)
    assert cast("Any", stage.client.of("statistics")[-1]).block_ms == pytest.approx(300, rel=0.01)


async def test_a_generator_that_is_too_slow_gives_things_up_in_order_and_says_so(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(block_s=1.5)  # a block is shown for 0.75 s
    stage.begin()
    await stage.time.run(40.0)
    told = [cast("Any", message) for message in stage.client.of("statistics")]
    measures = list(dict.fromkeys(message.measure for message in told))
    assert measures == ["none", "lead", "rate"]
    assert "of the time it is shown" in told[-1].measure_reason
    assert told[-1].playback_rate == pytest.approx(0.5, abs=0.1)
    stage.engine.block_s = 0.2
    await stage.time.run(120.0)
    assert cast("Any", stage.client.of("statistics")[-1]).measure == "none"


def measures(stage: Stage) -> list[str]:
    """The measures told to the client, in their order, each once for as long as it held."""
    told = [cast("Any", message).measure for message in stage.client.of("statistics")]
    return [m for i, m in enumerate(told) if i == 0 or told[i - 1] != m]


def economies(stage: Stage) -> list[Economy]:
    """What the engine was told to save, in order."""
    return [e for _, events in stage.engine.made for e in events if isinstance(e, Economy)]


async def test_a_model_that_can_save_does_so_before_it_slows_down_and_takes_all_of_it_back(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(block_s=3.0)  # a block is shown for 0.75 s: nothing is enough
    stage.engine.able = frozenset({"decoder", "steps"})
    stage.begin()
    await stage.time.run(60.0)
    assert measures(stage) == ["none", "lead", "decoder", "steps", "rate"]
    assert economies(stage) == [Economy(decoder=True), Economy(decoder=True, steps=True)]
    stage.engine.block_s = 0.2
    await stage.time.run(120.0)
    assert measures(stage)[5:] == ["steps", "decoder", "lead", "none"]
    assert economies(stage)[2:] == [Economy(decoder=True), Economy()]
    script = Script.read(io.StringIO(stage.stream.script()))
    recorded = [(block, e) for block, e in script.events if isinstance(e, Economy)]
    made = [(block, e) for block, es in stage.engine.made for e in es if isinstance(e, Economy)]
    assert recorded == made


async def test_a_stream_stops_giving_up_where_that_is_enough(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(block_s=1.2)  # halved by fewer steps, and a fifth less by the small decoder
    stage.engine.able = frozenset({"decoder", "steps"})
    stage.begin()
    await stage.time.run(180.0)
    assert measures(stage) == ["none", "lead", "decoder", "steps"]
    last = cast("Any", stage.client.of("statistics")[-1])
    assert last.playback_rate == pytest.approx(1.0, abs=0.06)
    assert last.block_ms == pytest.approx(480, rel=0.01)


async def test_what_is_saved_is_told_before_the_prompt_of_the_same_block(
    new_stage: Callable[..., Stage],
) -> None:
    stage = new_stage(block_s=1.2)
    stage.engine.able = frozenset({"decoder"})
    stage.begin()
    while stage.stream._governor.decision.measure != "lead":
        await stage.time.run(0.1)
    while not economies(stage):
        stage.stream.set_prompt(Prompt("p2", "snow"))
        await stage.time.run(0.1)
    (events,) = [es for _, es in stage.engine.made if any(isinstance(e, Economy) for e in es)]
    assert [type(event) for event in events] == [Economy, Prompt]


async def test_a_stream_that_comes_back_goes_on_saving(new_stage: Callable[..., Stage]) -> None:
    stage = new_stage(block_s=1.2, park_after_s=5.0)
    stage.engine.able = frozenset({"steps"})
    stage.begin()
    await stage.time.run(60.0)
    assert measures(stage)[-1] == "steps"
    stage.stream.unwatch(stage.client)
    await stage.time.run(10.0)
    assert stage.stream.state == "parked"
    script = Script.read(io.StringIO(stage.stream.script()))
    economy = [e for _, e in script.events if isinstance(e, Economy)]
    assert economy == [Economy(steps=True)]
    stage.stream.watch(stage.client)
    await stage.time.run(5.0)
    assert economies(stage) == [Economy(steps=True)], "the truth that it came back from says so"


async def test_what_keeps_a_stream_going_is_no_viewer(new_stage: Callable[..., Stage]) -> None:
    stage = new_stage(park_after_s=5.0)
    recorder = FakeClient()
    stage.begin(is_watched=False)
    stage.stream.watch(recorder, is_viewer=False)
    await stage.time.run(20.0)
    assert stage.states == ["playing"]
    assert stage.stream.num_viewers == 0
    stage.stream.detach(recorder)
    await stage.time.run(10.0)
    assert stage.stream.state == "parked"


async def test_who_comes_late_is_told_what_was_shown(new_stage: Callable[..., Stage]) -> None:
    stage = new_stage()
    stage.begin()
    await stage.time.run(2.0)
    stage.stream.set_prompt(Prompt("p2", "snow"))
    await stage.time.run(3.0)
    told = stage.stream.history()
    assert told.frame == stage.broadcast.pushed[-1][1].number
    history = told.prompts
    assert [(each.prompt_id, each.text) for each in history] == [
        ("p1", "a red balloon"),
        ("p2", "snow"),
    ]
    first = next(frame for _, frame in stage.broadcast.pushed if frame.prompt_id == "p2")
    assert (history[1].frame, history[1].block) == (first.number, first.block)
    assert stage.stream.changes.shown[1].pts == first.pts
