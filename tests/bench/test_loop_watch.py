"""Stalls of the event loop are seen, and told from a busy machine."""

import asyncio
import time

from streamer.bench.loop_watch import watch_loop


async def test_a_loop_that_sleeps_stands_still_without_being_busy():
    async with watch_loop() as watch:
        await asyncio.sleep(0.01)
        time.sleep(0.06)  # noqa: ASYNC251  (what must never be done on a loop)
        await asyncio.sleep(0.01)
    assert watch.late_ms > 55
    assert watch.busy_ms < 50


async def test_a_loop_that_computes_is_busy():
    async with watch_loop() as watch:
        await asyncio.sleep(0.01)
        until = time.thread_time() + 0.06
        while time.thread_time() < until:
            pass
        await asyncio.sleep(0.01)
    assert watch.busy_ms > 55
    assert watch.late_ms > 55


async def test_an_idle_loop_is_neither():
    async with watch_loop() as watch:
        await asyncio.sleep(0.05)
    assert watch.busy_ms < 10


async def test_the_watch_ends_with_its_block():
    before = asyncio.all_tasks()
    async with watch_loop():
        pass
    assert asyncio.all_tasks() == before
