from pathlib import Path

import av
import numpy as np
import pytest

from streamer.driver import StreamDriver
from streamer.errors import ConfigError, OutputError
from streamer.offline import (
    ClipWriter,
    Score,
    render_to_file,
    score_from_prompts,
    score_from_script,
)
from streamer.stream import Ended, Prompt, Restored, Script, StreamSpec
from tests.fakes import FakeEngine, pattern_config

CONFIG = pattern_config()
SECTION = CONFIG.stream
SPEC = StreamSpec("pattern", 7, 64, 64, 16)
RED, BLUE = Prompt("p0", "red"), Prompt("p1", "blue")


async def instant(_: float) -> None:
    """No time passes."""


def test_prompts_are_placed_at_the_nearest_block_start():
    score = score_from_prompts(SECTION, [(4.0, BLUE), (0.0, RED)], 8.0)
    assert score.events == ((0, RED), (5, BLUE))
    assert score.num_frames == 128


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_length_that_is_none_is_refused(seconds: float):
    with pytest.raises(ConfigError, match="--seconds"):
        score_from_prompts(SECTION, [(0.0, RED)], seconds)
    with pytest.raises(ConfigError, match="--seconds"):
        score_from_script(CONFIG, Script(SPEC, [(0, RED)]), seconds)


@pytest.mark.parametrize(
    ("at_s", "says"),
    [(-1.0, "0 or more"), (float("inf"), "0 or more"), (9.0, "behind the end")],
)
def test_a_prompt_outside_the_clip_is_refused(at_s: float, says: str):
    with pytest.raises(ConfigError, match=says):
        score_from_prompts(SECTION, [(0.0, RED), (at_s, BLUE)], 8.0)


def test_a_recorded_script_is_as_long_as_its_stream_was():
    script = Script(SPEC, [(0, RED), (2, Restored()), (5, Ended())])
    score = score_from_script(CONFIG, script)
    assert score.num_frames == 60
    assert score.at(2) == (Restored(),)
    assert score_from_script(CONFIG, script, 1.0).num_frames == 16


def test_a_script_of_nothing_played_is_refused():
    with pytest.raises(ConfigError, match="no prompt at block 0"):
        score_from_script(CONFIG, Script(SPEC))
    unseen = Script(SPEC, [(0, RED), (0, Ended())])
    with pytest.raises(ConfigError, match="before its first picture"):
        score_from_script(CONFIG, unseen)
    assert score_from_script(CONFIG, unseen, 1.0).num_frames == 16


async def test_a_clip_has_exactly_the_frames_asked_for(tmp_path: Path):
    path = tmp_path / "clip.mp4"
    driver = StreamDriver(FakeEngine(sleep=instant), SPEC, SECTION)
    done = []
    with ClipWriter(path, 64, 64, 16) as writer:
        made = await render_to_file(driver, Score(((0, RED),), 40), writer, done.append)
    assert (made.num_frames, made.num_blocks) == (40, 4)
    assert done == [12, 24, 36, 40]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert sum(1 for _ in container.decode(stream)) == 40
    # faststart: the index lies before the pictures.
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_an_interrupted_clip_is_closed_and_playable(tmp_path: Path):
    path = tmp_path / "clip.mp4"

    def interrupted() -> None:
        with ClipWriter(path, 64, 64, 16) as writer:
            writer.write(np.zeros((5, 64, 64, 3), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


def test_a_place_that_cannot_be_written_is_found_before_anything_is_made(tmp_path: Path):
    with pytest.raises(OutputError, match="cannot be written"):
        ClipWriter(tmp_path / "no" / "clip.mp4", 64, 64, 16)
    with pytest.raises(OutputError, match="cannot be written"):
        ClipWriter(tmp_path, 64, 64, 16)


def test_a_clip_without_pictures_leaves_no_file(tmp_path: Path):
    path = tmp_path / "clip.mp4"
    with ClipWriter(path, 64, 64, 16):
        pass
    assert not path.exists()


def test_an_earlier_clip_is_kept_until_there_is_a_picture_to_replace_it(tmp_path: Path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"an earlier clip")
    with ClipWriter(path, 64, 64, 16):
        pass
    assert path.read_bytes() == b"an earlier clip"
    with ClipWriter(path, 64, 64, 16) as writer:
        writer.write(np.zeros((2, 64, 64, 3), np.uint8))
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2
