"""Pools: limits of memory, what goes first, and how many workers there are."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import TIME, until
from pool_tasks import pid_of_worker, sleep, square

import polyproc as mp

MIB = 2**20

#: What a worker is left with that leaks.
LEAK: list[bytearray] = []


def leak(size: int) -> int:
    LEAK.append(bytearray(b"x") * size)
    return os.getpid()


def take(size: int) -> int:
    """Takes so much memory, and holds it until it is ended, if that is a lot."""
    taken = bytearray(b"x") * size
    if size > 100 * MIB:
        time.sleep(60)
    return len(taken)


def hold(gate: str) -> int:
    """Notes that it has begun, and waits until the gate is there."""
    Path(f"{gate}.{os.getpid()}").touch()
    until(lambda: os.path.exists(gate))
    return os.getpid()


def held(gate: str) -> int:
    """How many tasks wait at the gate."""
    gates = Path(gate)
    return len(list(gates.parent.glob(f"{gates.name}.*")))


def note(path: str, number: int) -> int:
    with open(path, "a") as file:
        file.write(f"{number} ")
    return number


# ------------------------------------------------------------------------------------------------ memory


def test_a_worker_that_leaks_is_replaced_after_its_task(context: Any) -> None:
    with context.Pool(1, max_memory_per_child=200 * MIB) as pool:
        assert pool.apply(leak, (MIB,)) == pool.apply(leak, (MIB,))
        first = pool.apply(leak, (300 * MIB,))
        # The task that went above has its result, and what comes next is done by another worker.
        assert pool.apply(pid_of_worker) != first
        results = pool.map(leak, [120 * MIB] * 6, chunksize=1)
        assert len(results) == 6
        assert max(results.count(pid) for pid in results) <= 2
        assert len(pool._pool) == 1


def test_queued_tasks_survive_that_their_worker_is_replaced() -> None:
    with mp.Pool(2, max_memory_per_child=1) as pool:
        results = [pool.apply_async(square, (x,)) for x in range(100)]
        assert [result.get(TIME) for result in results] == [x * x for x in range(100)]
        pids = [pool.apply(pid_of_worker) for _ in range(4)]
        assert len(set(pids)) == 4


def test_a_task_that_takes_too_much_memory_fails_alone(context: Any) -> None:
    with context.Pool(2) as pool:
        begun = time.monotonic()
        results = pool.map(take, [MIB, 400 * MIB, 2 * MIB], memory_limit=150 * MIB, on_error="return")
        assert time.monotonic() - begun < TIME
        error = results[1]
        assert results[::2] == [MIB, 2 * MIB]
        assert isinstance(error, mp.TaskMemoryError) and isinstance(error, MemoryError)
        assert "task 1 (argument 419430400) took" in str(error)
        assert "may take 150.0 MiB (memory_limit=157286400); the pool measured it from outside" in str(error)
        with pytest.raises(mp.TaskMemoryError, match=r"\(arguments \(419430400,\)\) took"):
            pool.apply_async(take, (400 * MIB,), memory_limit=150 * MIB, retries=1).get(TIME)
        assert pool.map(square, range(6)) == [x * x for x in range(6)]


def test_what_a_worker_had_before_does_not_count_against_a_task() -> None:
    with mp.Pool(1) as pool:
        pid = pool.apply(leak, (300 * MIB,))
        assert pool.apply_async(take, (10 * MIB,), memory_limit=100 * MIB).get(TIME) == 10 * MIB
        assert pool.apply(pid_of_worker) == pid


def test_a_kill_is_blamed_on_memory_only_on_evidence() -> None:
    from polyproc import _pool_errors

    which = (3, True, "x")
    plain = _pool_errors.died(which, 77, -signal.SIGKILL, "was killed", None)
    assert "emory" not in str(plain)
    blamed = _pool_errors.died(which, 77, -signal.SIGKILL, "was killed", (4, 5))
    assert "Memory ran out" in str(blamed) and "(oom_kill) rose from 4 to 5" in str(blamed)
    # Whoever exits by itself, or is killed by another signal, was not killed for memory.
    for code in (7, -signal.SIGSEGV):
        assert "emory" not in str(_pool_errors.died(which, 77, code, "ended", (4, 5)))


# ------------------------------------------------------------------------------------------------ priorities


def test_the_higher_priority_goes_first_and_within_one_the_older(tmp_path: Path) -> None:
    log, gate = str(tmp_path / "log"), str(tmp_path / "gate")
    with mp.Pool(1) as pool:
        # Tiny tasks, so that many lie in the worker's lane.
        pool.map(square, range(1000))
        holding = pool.apply_async(hold, (gate,))
        until(lambda: held(gate) == 1)
        results = [pool.apply_async(note, (log, 100 + number)) for number in range(5)]
        results += [pool.apply_async(note, (log, 900 + number), priority=-1) for number in range(3)]
        results.append(pool.map_async(note_in, [(log, 1), (log, 2), (log, 3)], priority=7))
        results.append(pool.apply_async(note, (log, 0), priority=8))
        Path(gate).touch()
        for result in [holding, *results]:
            result.get(TIME)
    order = [int(number) for number in Path(log).read_text().split()]
    assert order == [0, 1, 2, 3, 100, 101, 102, 103, 104, 900, 901, 902]


def note_in(task: tuple[str, int]) -> int:
    return note(*task)


# ------------------------------------------------------------------------------------------------ how many workers


def test_a_pool_grows_and_shrinks(context: Any) -> None:
    with context.Pool(1) as pool:
        pool.resize(4)
        assert len(pool._pool) == 4
        assert len(set(pool.map(pid_after, [0.1] * 8, chunksize=1))) > 1
        pool.resize(1)
        until(lambda: len(pool._pool) == 1)
        assert pool.map(square, range(50)) == [x * x for x in range(50)]
        pool.resize(3)
        assert len(pool._pool) == 3
    assert not mp.active_children()


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_a_busy_worker_finishes_its_task_when_the_pool_shrinks(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    with mp.Pool(3) as pool:
        holding = [pool.apply_async(hold, (gate,)) for _ in range(3)]
        until(lambda: held(gate) == 3)
        more = [pool.apply_async(square, (x,)) for x in range(20)]
        pool.resize(1)
        assert len(pool._pool) == 3
        Path(gate).touch()
        assert len({result.get(TIME) for result in holding}) == 3
        assert [result.get(TIME) for result in more] == [x * x for x in range(20)]
        until(lambda: len(pool._pool) == 1)


def test_idle_workers_end_and_come_back() -> None:
    with mp.Pool(3, idle_timeout=0.05, min_processes=1) as pool:
        assert len(pool._pool) == 3
        until(lambda: len(pool._pool) == 1)
        assert len(set(pool.map(pid_after, [0.2] * 3, chunksize=1))) == 3
        until(lambda: len(pool._pool) == 1)
        # Also while somebody waits.
        long = pool.apply_async(sleep, (1.5,))
        pool.map(pid_after, [0.01] * 6, chunksize=1)
        assert long.get(TIME) == 1.5
        assert len(pool._pool) == 1
    assert not mp.active_children()


def test_a_pool_may_go_down_to_no_worker_at_all() -> None:
    with mp.Pool(2, idle_timeout=0.02, min_processes=0) as pool:
        until(lambda: not pool._pool)
        assert pool.map(square, range(10)) == [x * x for x in range(10)]
        until(lambda: not pool._pool)
        assert pool.apply(square, (3,)) == 9
        pool.close()
        pool.join()


def test_idle_workers_that_are_killed_are_replaced_before_they_are_needed(pool: Any) -> None:
    pool.apply_async(square, (1,)).get(TIME)
    before = {worker.pid for worker in pool._pool}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(pool._pool) == 2 and not before & {worker.pid for worker in pool._pool})


@pytest.mark.parametrize(
    "wrong", [{"max_memory_per_child": 0}, {"idle_timeout": 0}, {"min_processes": 1}, {"min_processes": 5, "idle_timeout": 1}]
)
def test_a_pool_says_what_it_cannot_be(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        mp.Pool(2, **wrong)


@pytest.mark.parametrize("wrong", [{"memory_limit": 0}, {"priority": "high"}, {"retries": -1}, {"error_retries": 1.5}])
def test_terms_that_make_no_sense_are_refused(pool: Any, wrong: Any) -> None:
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=name):
        pool.apply_async(square, (1,), **wrong)
    with pytest.raises(ValueError, match=name):
        pool.map(square, [1], **wrong)
    with pytest.raises(TypeError, match="'patience' is no keyword argument"):
        pool.imap(square, [1], patience=3)
    with pytest.raises(ValueError, match="at least 1"):
        pool.resize(0)
