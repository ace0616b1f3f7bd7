"""One measurement, in a process of its own: python bench/measure.py MODULE NAME [SECONDS]

Prints the figure and nothing else. `bench/run.py` starts this many times over and compares.

Every measurement takes a `Bench` and returns one number in the unit that its entry in `MEASUREMENTS` names. How often
the measured thing is done follows from a short trial, so that a slow and a fast implementation both run for about the
time asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy
from arrays import ARRAYS
from managers import MANAGERS
from pools import POOLS
from starts import STARTS
from yardstick import MB, Bench, Measurement, now

# ---- Pipe


def echo(end: Any) -> None:
    while (item := end.recv()) is not None:
        end.send(item)


def pipe_round_trip(bench: Bench) -> float:
    """A small tuple to another process and back: the median, in µs."""
    here, there = bench.mp.Pipe()
    process = bench.child(echo, there)

    def trip() -> float:
        start = now()
        here.send((1, "two", 3.0))
        here.recv()
        return now() - start

    warm = [trip() for _ in range(200)]
    times = [trip() for _ in range(min(200_000, bench.often_enough(sum(warm), len(warm), 500)))]
    here.send(None)
    process.join()
    return median(times) * 1e6


def drain_pipe(end: Any, back: Any) -> None:
    for _ in range(2):
        looked = 0.0
        while (item := end.recv()) is not None:
            looked += float(item[0])
        back.send(looked)


def pipe_arrays(bench: Bench, size: int) -> float:
    """float64 arrays of `size` bytes one way through a Pipe: MB/s, until the last was received."""
    receiving, sending = bench.mp.Pipe(duplex=False)
    answer, back = bench.mp.Pipe(duplex=False)
    process = bench.child(drain_pipe, receiving, back)
    rate = through(bench, sending.send, answer.recv, size)
    process.join()
    return rate


# ---- Queue


def produce(queue: Any, orders: Any, make: Callable[[int], Any]) -> None:
    put = queue.put
    while (count := orders.recv()) is not None:
        for number in range(count):
            put(make(number))
    queue.close()
    queue.join_thread()


def an_int(number: int) -> int:
    return number


def a_dict(number: int) -> dict[str, Any]:
    return {"id": number, "name": "item", "value": 1.5}


def queue_items(bench: Bench, make: Callable[[int], Any]) -> float:
    """One producer process, one consumer (this one): items per second."""
    queue = bench.mp.Queue()
    orders, theirs = bench.mp.Pipe()
    process = bench.child(produce, queue, theirs, make)
    get = queue.get

    def take(count: int) -> float:
        start = now()
        orders.send(count)
        for _ in range(count):
            get()
        return now() - start

    take(1000)
    count = bench.often_enough(take(5000), 5000, 5000)
    rate = count / take(count)
    orders.send(None)
    process.join()
    return rate


def drain_queue(queue: Any, back: Any) -> None:
    for _ in range(2):
        looked = 0.0
        while (item := queue.get()) is not None:
            looked += float(item[0])
        back.send(looked)


def queue_arrays(bench: Bench, size: int) -> float:
    """float64 arrays of `size` bytes through a Queue of at most 8: MB/s, until the last was received."""
    queue = bench.mp.Queue(8)
    answer, back = bench.mp.Pipe(duplex=False)
    process = bench.child(drain_queue, queue, back)
    rate = through(bench, queue.put, answer.recv, size)
    process.join()
    return rate


def through(bench: Bench, put: Callable[[Any], None], answered: Callable[[], float], size: int) -> float:
    """First a trial, which also warms the memory, then the measured lot. Each lot ends with None and is answered."""
    array = numpy.ones(size // 8)

    def lot(count: int) -> float:
        start = now()
        for _ in range(count):
            put(array)
        put(None)
        if answered() != count:
            raise AssertionError(f"{count} arrays were sent and not all arrived")
        return now() - start

    few = max(4, 32 * MB // size)
    count = bench.often_enough(lot(few), few, few)
    return count * array.nbytes / MB / lot(count)


def bounce(inbox: Any, outbox: Any) -> None:
    while (item := inbox.get()) is not None:
        outbox.put(item)


def queue_round_trip(bench: Bench) -> float:
    """A small tuple through one Queue to another process and back through a second: the median, in µs."""
    there, back = bench.mp.Queue(), bench.mp.Queue()
    process = bench.child(bounce, there, back)

    def trip() -> float:
        start = now()
        there.put((1, "two", 3.0))
        back.get()
        return now() - start

    warm = [trip() for _ in range(200)]
    times = [trip() for _ in range(min(200_000, bench.often_enough(sum(warm), len(warm), 500)))]
    there.put(None)
    process.join()
    return median(times) * 1e6


# ---- Lock, Value, Array


def repeated(bench: Bench, act: Callable[[int], None]) -> float:
    """ns for one of what `act(n)` does n times: the median of ten lots."""
    act(1000)
    start = now()
    act(5000)
    count = bench.often_enough((now() - start) * 10, 5000, 1000)
    lots = []
    for _ in range(10):
        start = now()
        act(count)
        lots.append((now() - start) / count)
    return median(lots) * 1e9


def lock(bench: Bench) -> float:
    """acquire and release with nobody else about: ns."""
    lock = bench.mp.Lock()
    acquire, release = lock.acquire, lock.release

    def act(count: int) -> None:
        for _ in range(count):
            acquire()
            release()

    return repeated(bench, act)


def semaphore(bench: Bench) -> float:
    """acquire and release with nobody else about: ns."""
    semaphore = bench.mp.Semaphore()
    acquire, release = semaphore.acquire, semaphore.release

    def act(count: int) -> None:
        for _ in range(count):
            acquire()
            release()

    return repeated(bench, act)


def rlock_with(bench: Bench) -> float:
    """`with rlock:` with nobody else about: ns."""
    lock = bench.mp.RLock()

    def act(count: int) -> None:
        for _ in range(count):
            with lock:
                pass

    return repeated(bench, act)


def hold_briefly(lock: Any, rounds: int) -> None:
    for _ in range(rounds):
        with lock:
            pass


def lock_contended(bench: Bench) -> float:
    """Four processes take and give one lock as fast as they can: ns for each time."""
    lock = bench.mp.Lock()

    def act(count: int) -> float:
        processes = [bench.child(hold_briefly, lock, count // 4) for _ in range(4)]
        start = now()
        for process in processes:
            process.join()
        return now() - start

    count = bench.often_enough(act(20_000), 20_000, 20_000)
    return act(count) / count * 1e9


def value_increment(bench: Bench) -> float:
    """`with value.get_lock(): value.value += 1`: ns."""
    value = bench.mp.Value("i", 0)

    def act(count: int) -> None:
        for _ in range(count):
            with value.get_lock():
                value.value += 1

    return repeated(bench, act)


def value_read(bench: Bench) -> float:
    """`value.value` of a Value with its lock: ns."""
    value = bench.mp.Value("i", 0)

    def act(count: int) -> None:
        for _ in range(count):
            value.value

    return repeated(bench, act)


def array_item(bench: Bench) -> float:
    """`array[7] = array[6]` of an Array with its lock: ns."""
    array = bench.mp.Array("d", 16)

    def act(count: int) -> None:
        for _ in range(count):
            array[7] = array[6]

    return repeated(bench, act)


# ---- Event, Condition


def event_answer(ping: Any, pong: Any, rounds: int) -> None:
    for _ in range(rounds):
        ping.wait()
        ping.clear()
        pong.set()


def event_round_trip(bench: Bench) -> float:
    """Two processes wake each other by two Events: µs for there and back."""
    ping, pong = bench.mp.Event(), bench.mp.Event()

    def act(rounds: int) -> float:
        process = bench.child(event_answer, ping, pong, rounds)
        ping.set()
        pong.wait()
        pong.clear()
        start = now()
        for _ in range(rounds - 1):
            ping.set()
            pong.wait()
            pong.clear()
        taken = now() - start
        process.join()
        return taken

    rounds = bench.often_enough(act(200), 200, 200)
    return act(rounds) / (rounds - 1) * 1e6


def take_turns(condition: Any, turn: Any, mine: int, rounds: int) -> None:
    for _ in range(rounds):
        with condition:
            while turn.value != mine:
                condition.wait()
            turn.value = 1 - mine
            condition.notify()


def condition_round_trip(bench: Bench) -> float:
    """Two processes take turns under one Condition: µs for there and back."""
    condition, turn = bench.mp.Condition(), bench.mp.Value("i", 0, lock=False)

    def act(rounds: int) -> float:
        process = bench.child(take_turns, condition, turn, 1, rounds)
        take_turns(condition, turn, 0, 1)
        start = now()
        take_turns(condition, turn, 0, rounds - 1)
        taken = now() - start
        process.join()
        return taken

    rounds = bench.often_enough(act(200), 200, 200)
    return act(rounds) / (rounds - 1) * 1e6


MEASUREMENTS = (
    Measurement("pipe_round_trip", "Pipe: small tuple there and back", "µs", pipe_round_trip, required=8),
    Measurement("queue_ints", "Queue: 1 to 1, ints", "items/s", lambda b: queue_items(b, an_int), True, 8),
    Measurement("queue_dicts", "Queue: 1 to 1, small dicts", "items/s", lambda b: queue_items(b, a_dict), True, 8),
    Measurement("queue_array_1mb", "Queue: arrays of 1 MB", "MB/s", lambda b: queue_arrays(b, MB), True, 10),
    Measurement("queue_array_32mb", "Queue: arrays of 32 MB", "MB/s", lambda b: queue_arrays(b, 32 * MB), True, 10),
    Measurement("pipe_array_1mb", "Pipe: arrays of 1 MB", "MB/s", lambda b: pipe_arrays(b, MB), True, 10),
    Measurement("pipe_array_32mb", "Pipe: arrays of 32 MB", "MB/s", lambda b: pipe_arrays(b, 32 * MB), True, 10),
    Measurement("lock", "Lock: acquire and release", "ns", lock, required=1),
    Measurement("semaphore", "Semaphore: acquire and release", "ns", semaphore),
    Measurement("rlock_with", "RLock: with", "ns", rlock_with),
    Measurement("lock_contended", "Lock: four processes at it", "ns", lock_contended),
    Measurement("queue_round_trip", "Queue: small tuple there and back", "µs", queue_round_trip),
    Measurement("value_read", "Value: read under its lock", "ns", value_read, required=2),
    Measurement("value_increment", "Value: += 1 under its lock", "ns", value_increment, required=2),
    Measurement("array_item", "Array: read and write an item", "ns", array_item, required=2),
    Measurement("event_round_trip", "Event: there and back", "µs", event_round_trip),
    Measurement("condition_round_trip", "Condition: there and back", "µs", condition_round_trip),
    *STARTS,
    *POOLS,
    *ARRAYS,
    *MANAGERS,
)


def main() -> int:
    module, name, *more = sys.argv[1:]
    chosen = next(measurement for measurement in MEASUREMENTS if measurement.name == name)
    print(chosen.run(Bench(importlib.import_module(module), float(more[0]) if more else 0.5)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
