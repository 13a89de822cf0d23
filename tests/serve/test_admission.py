"""The queue before the server's work: laws of who is let in, by a clock that the tests set."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from lore.serve.admission import AdmissionQueue

PATIENCE = 0.1


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def on_a_loop(body: Callable[[AdmissionQueue, Clock], Coroutine[Any, Any, None]], slots: int = 1) -> None:
    clock = Clock()
    asyncio.run(body(AdmissionQueue(slots, PATIENCE, clock), clock))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_as_many_as_there_are_slots_are_let_in_and_the_next_when_one_leaves() -> None:
    async def body(admission: AdmissionQueue, _: Clock) -> None:
        assert await admission.enter()
        assert await admission.enter()
        waiting = asyncio.create_task(admission.enter())
        await settled()
        assert not waiting.done()
        admission.leave()
        assert await waiting

    on_a_loop(body, slots=2)


def test_a_burst_is_worked_off_within_its_patience() -> None:
    async def body(admission: AdmissionQueue, clock: Clock) -> None:
        assert await admission.enter()
        burst = [asyncio.create_task(admission.enter()) for _ in range(10)]
        await settled()
        for _ in burst:
            clock.now += 0.9 * PATIENCE / len(burst)
            admission.leave()
            await settled()
        assert all([await one for one in burst])

    on_a_loop(body)


def test_who_waited_too_long_is_turned_away_when_the_turn_comes() -> None:
    async def body(admission: AdmissionQueue, clock: Clock) -> None:
        assert await admission.enter()
        old = asyncio.create_task(admission.enter())
        await settled()
        clock.now = 1.01 * PATIENCE
        young = asyncio.create_task(admission.enter())
        await settled()
        admission.leave()
        assert not await old
        assert await young

    on_a_loop(body)


def test_under_lasting_overload_only_the_young_are_let_in_until_the_queue_has_been_empty() -> None:
    async def body(admission: AdmissionQueue, clock: Clock) -> None:
        assert await admission.enter()
        first = [asyncio.create_task(admission.enter()) for _ in range(4)]
        await settled()
        clock.now = 1.5 * PATIENCE
        later = [asyncio.create_task(admission.enter()) for _ in range(3)]
        await settled()
        clock.now += PATIENCE / 10  # above a twentieth
        youngest = asyncio.create_task(admission.enter())
        await settled()
        admission.leave()
        assert [await one for one in first + later] == [False] * 7
        assert await youngest
        admission.leave()
        assert await admission.enter()
        patient = asyncio.create_task(admission.enter())
        await settled()
        clock.now += PATIENCE / 2
        admission.leave()
        assert await patient

    on_a_loop(body)


def test_who_waits_for_something_else_makes_room() -> None:
    async def body(admission: AdmissionQueue, _: Clock) -> None:
        assert await admission.enter()
        other = asyncio.create_task(admission.enter())
        await settled()
        with admission.released():
            assert await other
        admission.leave()
        admission.leave()
        third = await admission.enter()
        fourth = asyncio.create_task(admission.enter())
        await settled()
        assert third
        assert not fourth.done()
        fourth.cancel()

    on_a_loop(body)


def test_who_gives_up_while_waiting_takes_no_turn() -> None:
    async def body(admission: AdmissionQueue, _: Clock) -> None:
        assert await admission.enter()
        gone = asyncio.create_task(admission.enter())
        await settled()
        gone.cancel()
        await settled()
        admission.leave()
        assert await admission.enter()
        last = asyncio.create_task(admission.enter())
        await settled()
        admission.leave()
        last.cancel()  # at the moment of its turn
        await settled()
        assert await admission.enter()

    on_a_loop(body)


def test_without_a_loop_there_is_nothing_to_make_room_in() -> None:
    with AdmissionQueue(1, PATIENCE).released():
        pass
