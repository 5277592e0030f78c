"""Does the picture run evenly, and how far behind is it?  A browser watches uneven blocks.

    python -m tests.e2e.playback --minutes 5
    python -m tests.e2e.playback --minutes 5 --jitter 0.12 --spikes 0.06 --json
    python -m tests.e2e.playback --minutes 1 --loss 0.05 --delay 0.1

Server, worker, WebRTC and Chromium are the real ones, on this machine.  The number of each picture
is read off the glass (colour bars carry it), so nothing that a part says of itself is believed.
*Behind* is the time from the end of a block's making to its first picture on screen.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

from tests.e2e.conftest import FLAGS, ROOT, find_browser
from tests.e2e.uneven import Arrival, Way

SETTLE_S = 10.0
"""What is shown before is not judged: connecting, and learning how long blocks take."""
TARGET_BEHIND_MS = 250.0
AVERAGED = 30
"""As browsers do it: an interval is a freeze when it is longer than three times the mean of the
thirty before it, and than that mean and 150 ms (W3C, identifiers for WebRTC statistics)."""
LATE_S = 0.15
"""A block that took so much longer than usual is late, and the picture may wait for it."""
ROUND = 65_536
"""Picture numbers are told modulo this."""

KEEP_PEERS = """(() => {
  const Native = window.RTCPeerConnection;
  window.peers = [];
  window.RTCPeerConnection = class extends Native {
    constructor(...given) { super(...given); window.peers.push(this); }
  };
})()"""

# Each picture on screen: its number, when it was shown (Unix time, ms), when its last packet came.
WATCH = """() => {
  window.seen = [];
  const video = document.getElementById("video");
  // Cells of eight pixels, whatever the size of the rendition: a 32th of the width.
  const canvas = new OffscreenCanvas(64, 16);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const watch = (now, frame) => {
    const side = video.videoWidth / 32;
    context.drawImage(video, 0, 0, 8 * side, 2 * side, 0, 0, 64, 16);
    const {data} = context.getImageData(0, 0, 64, 16);
    let number = 0;
    for (let bit = 0; bit < 16; bit += 1) {
      const [x, y] = [(bit % 8) * 8 + 4, (bit >> 3) * 8 + 4];
      if (data[4 * (64 * y + x)] > 127) number |= 1 << bit;
    }
    const unix = Date.now() - performance.now();
    const shown = Math.max(now, frame.expectedDisplayTime);
    const received = frame.receiveTime === undefined ? null : frame.receiveTime + unix;
    window.seen.push([number, shown + unix, received]);
    video.requestVideoFrameCallback(watch);
  };
  video.requestVideoFrameCallback(watch);
}"""

STATISTICS = """async () => {
  for (const peer of window.peers.slice().reverse()) {
    for (const entry of (await peer.getStats()).values()) {
      if (entry.type === "inbound-rtp" && entry.kind === "video") return {...entry};
    }
  }
  return null;
}"""


@dataclass(frozen=True)
class Shown:
    """A picture on screen.  received_s: when its last packet came, where the browser tells."""

    number: int
    shown_s: float
    received_s: float | None


@dataclass(frozen=True)
class Made:
    """A block.  made_s: Unix time at which its making ended."""

    first: int
    count: int
    made_s: float
    took_s: float


@dataclass(frozen=True)
class Spread:
    """Milliseconds."""

    median: float
    p95: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread | None:
        if not seconds:
            return None
        ordered = sorted(1000 * each for each in seconds)
        p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        return cls(round(median(ordered), 1), round(p95, 1), round(ordered[-1], 1))


@dataclass(frozen=True)
class Judged:
    """What was seen on the glass.

    repeated: looks that found the picture of the look before: on a busy machine the page looks so
    late that the next picture is there already, and counts as skipped and as repeated.
    freezes: intervals that are freezes; of_late_blocks: those while a late block was awaited.
    behind_block_ms: from the end of a block's making to its first picture on screen.
    browser_ms: from a picture's last packet to the screen.
    """

    pictures: int
    fps: float
    skipped: int
    repeated: int
    backwards: int
    freezes: int
    freezes_of_late_blocks: int
    late_blocks: int
    interval_ms: Spread | None
    interval_std_ms: float
    behind_block_ms: Spread | None
    browser_ms: Spread | None


def judge(seen: Sequence[Shown], blocks: Sequence[Made]) -> Judged:
    """Judge a run of pictures, at least two, against the blocks they came in."""
    usual_s = median(block.took_s for block in blocks)
    late = {block.first: block.took_s > usual_s + LATE_S for block in blocks}
    starts = {block.first % ROUND: block for block in blocks}
    of_picture = {(block.first + i) % ROUND: block for block in blocks for i in range(block.count)}
    behind, freezes, excused = [], 0, 0
    recent: deque[float] = deque(maxlen=AVERAGED)
    steps = [(b.number - a.number) % ROUND for a, b in pairwise(seen)]
    intervals = [b.shown_s - a.shown_s for a, b in pairwise(seen)]
    for interval_s, picture in zip(intervals, seen[1:], strict=True):
        if picture.number in starts:
            behind.append(picture.shown_s - starts[picture.number].made_s)
        if len(recent) == AVERAGED:
            mean_s = fmean(recent)
            if interval_s > max(3 * mean_s, mean_s + 0.15):
                freezes += 1
                block = of_picture.get(picture.number)
                awaited = () if block is None else (block.first, block.first + block.count)
                excused += any(late.get(first, False) for first in awaited)
        recent.append(interval_s)
    received = [each.shown_s - each.received_s for each in seen if each.received_s is not None]
    return Judged(
        pictures=len(seen),
        fps=round(len(intervals) / max(1e-9, seen[-1].shown_s - seen[0].shown_s), 2),
        skipped=sum(step - 1 for step in steps if 1 < step < ROUND // 2),
        repeated=steps.count(0),
        backwards=sum(step >= ROUND // 2 for step in steps),
        freezes=freezes,
        freezes_of_late_blocks=excused,
        late_blocks=sum(late.values()),
        interval_ms=Spread.of(intervals),
        interval_std_ms=round(1000 * pstdev(intervals), 1),
        behind_block_ms=Spread.of(behind),
        browser_ms=Spread.of(received),
    )


@dataclass(frozen=True)
class Report:
    """One measurement.  Counts of the browser's own are of the judged time alone.

    nacks_ever: also those before the judged time.
    target_ms: for how long the page wanted pictures held back at least, at the end.
    load: processes that wanted a processor, in the mean of the last minute, at the end.
    """

    arrival: Arrival
    seconds: float
    codec: str
    freeze_count: int
    total_freezes_s: float
    frames_dropped: int
    pause_count: int
    packets_lost: int
    nacks: int
    nacks_ever: int
    plis: int
    jitter_buffer_ms: float
    target_ms: float
    judged: Judged
    load: float
    processors: int
    verdict: str

    @property
    def freezes_beyond_jitter(self) -> int:
        """Freezes that no late block explains."""
        return self.judged.freezes - self.judged.freezes_of_late_blocks

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"freezes_beyond_jitter": self.freezes_beyond_jitter}


def measure(arrival: Arrival, seconds: float, way: Way | None = None) -> Report:
    """Watch an uneven stream for so long, in a browser of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(), headless=True, args=FLAGS
        )
        try:
            return watch(browser, arrival, seconds, way=way)
        finally:
            browser.close()


def watch(
    browser: Any,
    arrival: Arrival,
    seconds: float,
    *,
    settle_s: float = SETTLE_S,
    way: Way | None = None,
) -> Report:
    """Watch an uneven stream for so long, through a way that may be bad."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "blocks.jsonl"
        with _serving(arrival, notes, way) as address:
            page = browser.new_page(viewport={"width": 640, "height": 400})
            page.add_init_script(KEEP_PEERS)
            page.goto(address)
            _until(page, "streamer.stats().phase === 'ready'")
            page.locator("#prompt").fill("green and white stripes")
            page.keyboard.press("Enter")
            _until(page, "streamer.stats().framesShown > 5")
            page.evaluate(WATCH)
            page.wait_for_timeout(1000 * settle_s)
            before, first = page.evaluate(STATISTICS), page.evaluate("seen.length")
            page.wait_for_timeout(1000 * seconds)
            after, seen = page.evaluate(STATISTICS), page.evaluate(f"seen.slice({first})")
            codec = page.evaluate("streamer.stats().codec")
            target_ms = page.evaluate("peers.at(-1).getReceivers()[0].jitterBufferTarget ?? 0")
            page.close()
        blocks = [Made(**json.loads(line)) for line in notes.read_text().splitlines()]
    pictures = [
        Shown(number, shown / 1000, None if received is None else received / 1000)
        for number, shown, received in seen
    ]
    return _report(arrival, seconds, codec, target_ms, before, after, judge(pictures, blocks))


def _report(
    arrival: Arrival,
    seconds: float,
    codec: str,
    target_ms: float,
    before: dict[str, Any],
    after: dict[str, Any],
    judged: Judged,
) -> Report:
    def grown(name: str) -> float:
        return float(after.get(name, 0) - before.get(name, 0))

    emitted = grown("jitterBufferEmittedCount")
    held_s = grown("jitterBufferDelay") / emitted if emitted else 0.0
    behind = judged.behind_block_ms
    beyond = judged.freezes - judged.freezes_of_late_blocks
    is_near = behind is not None and behind.median <= TARGET_BEHIND_MS
    return Report(
        arrival=arrival,
        seconds=seconds,
        codec=codec,
        freeze_count=int(grown("freezeCount")),
        total_freezes_s=round(grown("totalFreezesDuration"), 3),
        frames_dropped=int(grown("framesDropped")),
        pause_count=int(grown("pauseCount")),
        packets_lost=int(grown("packetsLost")),
        nacks=int(grown("nackCount")),
        nacks_ever=int(after.get("nackCount", 0)),
        plis=int(grown("pliCount")),
        jitter_buffer_ms=round(1000 * held_s, 1),
        target_ms=target_ms,
        judged=judged,
        load=round(os.getloadavg()[0], 1),
        processors=os.cpu_count() or 1,
        verdict=(
            f"{'No' if beyond == 0 else beyond} freezes beyond the jitter; a picture is "
            f"{behind.median if behind else 0:.0f} ms behind its block in the median, "
            f"{'within' if is_near else 'over'} {TARGET_BEHIND_MS:.0f} ms."
        ),
    )


def _until(page: Any, script: str, within_s: float = 60.0) -> None:
    until_s = time.monotonic() + within_s
    while not page.evaluate(f"() => {script}"):
        if time.monotonic() > until_s:
            raise TimeoutError(f"not within {within_s:g} s: {script}")
        page.wait_for_timeout(50)


@contextmanager
def _serving(arrival: Arrival, notes: Path, way: Way | None) -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    log = notes.with_name("server.log")
    asked = [json.dumps(asdict(each)) for each in (arrival, way) if each is not None]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.uneven", str(notes), *asked],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(notes.parent)},
        )
    try:
        until_s = time.monotonic() + 90
        while (found := re.search(r"http://\S+", log.read_text())) is None:
            if process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    usual = Arrival()
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--block", type=float, default=usual.block_s, help="mean, s")
    parser.add_argument("--jitter", type=float, default=usual.jitter_s, help="deviation, s")
    parser.add_argument("--spikes", type=float, default=usual.spikes, help="share of slow blocks")
    parser.add_argument("--spike", type=float, default=usual.spike_s, help="how much slower, s")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--loss", type=float, default=0.0, help="share of packets to lose")
    parser.add_argument("--delay", type=float, default=0.0, help="of every packet, s")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    asked = parser.parse_args()
    arrival = Arrival(asked.block, asked.jitter, asked.spikes, asked.spike, asked.seed)
    way = Way(asked.loss, asked.delay) if asked.loss or asked.delay else None
    made = measure(arrival, 60 * asked.minutes, way)
    if asked.json:
        print(json.dumps(made.as_dict(), indent=2))
        return
    judged = made.judged
    print(
        f"{made.seconds:.0f} s of {made.codec}, blocks in {arrival.block_s} s "
        f"+- {arrival.jitter_s}, {judged.late_blocks} of them late; "
        f"load {made.load} on {made.processors} processors\n"
        f"browser: {made.freeze_count} freezes ({made.total_freezes_s} s), {made.frames_dropped} "
        f"dropped, {made.jitter_buffer_ms} ms held back; {made.packets_lost} packets lost, "
        f"{made.nacks} asked for again, {made.plis} key frames asked for\n"
        f"on the glass: {judged.freezes} freezes, {judged.freezes_of_late_blocks} of them for late "
        f"blocks; {judged.fps} pictures/s, {judged.skipped} skipped, deviation "
        f"{judged.interval_std_ms} ms\n"
        f"behind its block (ms): {judged.behind_block_ms}\n{made.verdict}"
    )


if __name__ == "__main__":
    main()
