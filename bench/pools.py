"""Measurements of pools with small tasks: speed, memory, steadiness."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from statistics import median
from typing import Any

from yardstick import Bench, Measurement, now


def increment(number: int) -> int:
    return number + 1


def per_second(bench: Bench, act: Callable[[int], object], least: int = 1000) -> float:
    """How many tasks are done in a second by `act(count)`."""

    def timed(count: int) -> float:
        start = now()
        act(count)
        return now() - start

    timed(200)
    count = bench.often_enough(timed(least), least, least)
    return count / timed(count)


# ---- speed


def pool_map(bench: Bench) -> float:
    """Pool(2).map(increment, range(n), chunksize=1): tasks per second."""
    with bench.mp.Pool(2) as pool:
        return per_second(bench, lambda count: pool.map(increment, range(count), chunksize=1))


def pool_imap_unordered(bench: Bench) -> float:
    """Pool(2).imap_unordered(increment, range(n)): tasks per second."""
    with bench.mp.Pool(2) as pool:
        return per_second(bench, lambda count: sum(1 for _ in pool.imap_unordered(increment, range(count))))


def pool_burst(bench: Bench) -> float:
    """20,000 times apply_async(increment, (1,)), then get() of all: tasks per second."""
    with bench.mp.Pool(2) as pool:

        def burst(count: int) -> float:
            start = now()
            for result in [pool.apply_async(increment, (1,)) for _ in range(count)]:
                result.get()
            return now() - start

        burst(500)
        return median(20_000 / burst(20_000) for _ in range(3 if bench.seconds >= 0.3 else 1))


def pool_map_chunks(bench: Bench, count: int) -> float:
    """Pool(2).map(increment, range(count)), in the pool's own chunks: tasks per second, the median of some calls."""
    with bench.mp.Pool(2) as pool:

        def one() -> float:
            start = now()
            pool.map(increment, range(count))
            return now() - start

        one()
        return count / median(one() for _ in range(bench.often_enough(one(), 1, 3)))


def pool_apply(bench: Bench) -> float:
    """Pool(2).apply(increment, (1,)): the median, in µs."""
    with bench.mp.Pool(2) as pool:

        def one() -> float:
            start = now()
            pool.apply(increment, (1,))
            return now() - start

        warm = [one() for _ in range(50)]
        return median(one() for _ in range(bench.often_enough(sum(warm), len(warm), 100))) * 1e6


# ---- memory, steadiness


def memory() -> float:
    """Bytes that this process has in memory, without files."""
    with open("/proc/self/status") as status:
        return sum(1024 * float(line.split()[1]) for line in status if line.startswith(("RssAnon", "RssShmem")))


def pool_queued_memory(bench: Bench, count: int) -> float:
    """Bytes of the parent for each of `count` calls of apply_async that wait while the workers are busy."""
    go = bench.mp.Event()
    with bench.mp.Pool(2, go_with, (go,)) as pool:
        busy = [pool.apply_async(wait_to_go) for _ in range(2)]
        first = [pool.apply_async(increment, (number,)) for number in range(1000)]
        before = memory()
        results = [pool.apply_async(increment, (number,)) for number in range(count)]
        taken = memory() - before
        go.set()
        for result in busy + first + results:
            result.get()
    return taken / count


def go_with(event: Any) -> None:
    globals()["event"] = event


def wait_to_go() -> None:
    globals()["event"].wait()


def pool_steady(bench: Bench) -> float:
    """What each of 10^6 tasks of a burst of apply_async costs, over what each of 10^3 does: the median of three."""
    with bench.mp.Pool(2) as pool:

        def burst(count: int) -> float:
            start = now()
            for result in [pool.apply_async(increment, (1,)) for _ in range(count)]:
                result.get()
            return (now() - start) / count

        def ratio() -> float:
            # As many tasks of either kind, and half of the few on either side: whatever else the machine does falls on both.
            before = sum(burst(1000) for _ in range(500))
            many = burst(1_000_000)
            after = sum(burst(1000) for _ in range(500))
            return many / ((before + after) / 1000)

        return median(ratio() for _ in range(3))


def growth(act: Callable[[], object]) -> float:
    """MB by which this process is larger, at the worst, while it acts."""
    before, worst, over = memory(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal worst
        while not over.wait(0.02):
            worst = max(worst, memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    act()
    over.set()
    watcher.join()
    return (worst - before) / 1e6


def pool_flow_memory(bench: Bench) -> float:
    """MB by which the parent grows while 10^7 items of a generator go through imap_unordered."""
    with bench.mp.Pool(2) as pool:

        def flow(count: int) -> None:
            seen = sum(1 for _ in pool.imap_unordered(increment, (number for number in range(count))))
            assert seen == count

        flow(100_000)
        return growth(lambda: flow(10_000_000))


def pool_storm_memory(bench: Bench) -> float:
    """MB by which the parent grows while one of 8 workers is killed every 5 ms in the course of 100,000 tasks."""
    with bench.mp.Pool(8) as pool:
        answered = 0

        def storm(count: int) -> None:
            nonlocal answered
            over = threading.Event()

            def kill() -> None:
                while not over.wait(0.005):
                    victim = random.choice(list(pool._pool))
                    if victim.is_alive():
                        os.kill(victim.pid, signal.SIGKILL)

            killer = threading.Thread(target=kill)
            killer.start()
            answered = sum(1 for _ in pool.imap_unordered(linger, range(count), on_error="return"))
            over.set()
            killer.join()

        storm(5000)
        grown = growth(lambda: storm(100_000))
        assert answered == 100_000, f"{answered} of 100,000 tasks were answered"
        return grown


def linger(number: int) -> int:
    """Takes a little: or else there would be no time to kill anybody."""
    end = now() + 20e-6
    while now() < end:
        pass
    return number


POOLS = (
    Measurement("pool_map", "Pool(2): map, chunksize 1", "tasks/s", pool_map, True, 10),
    Measurement("pool_imap_unordered", "Pool(2): imap_unordered", "tasks/s", pool_imap_unordered, True, 10),
    Measurement("pool_burst", "Pool(2): 20,000 apply_async", "tasks/s", pool_burst, True, 10),
    Measurement("pool_chunks_10k", "Pool(2): map, 10^4 items", "tasks/s", lambda b: pool_map_chunks(b, 10**4), True, 1),
    Measurement("pool_chunks_1m", "Pool(2): map, 10^6 items", "tasks/s", lambda b: pool_map_chunks(b, 10**6), True, 1),
    Measurement("pool_apply", "Pool(2): apply", "µs", pool_apply, required=8),
    Measurement("pool_queued_memory", "Pool(2): memory, 10^5 queued", "B/task", lambda b: pool_queued_memory(b, 10**5), required=4),
    Measurement("pool_steady", "Pool(2): cost of 10^6 over 10^3", "times", pool_steady, most=1.2, long=True),
    Measurement("pool_flow_memory", "Pool(2): growth over 10^7 items", "MB", pool_flow_memory, most=16, long=True),
    Measurement("pool_storm_memory", "Pool(8): growth in a storm of kills", "MB", pool_storm_memory, most=16, long=True),
)  # fmt: skip
