"""Pools: limits, second attempts, and giving tasks up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from conftest import TIME
from pool_tasks import exit_at_two, once, pid_of_worker, refuse, sleep, square

import polyproc as mp


def test_a_timeout_ends_that_task_only(pool: Any) -> None:
    begun = time.monotonic()
    results = pool.map(sleep, [0, 0.01, 60, 0], timeout=0.3, on_error="return")
    assert isinstance(results[2], mp.TaskTimeoutError)
    assert isinstance(results[2], mp.TimeoutError)
    assert results[:2] + results[3:] == [0, 0.01, 0]
    assert time.monotonic() - begun < 10
    with pytest.raises(mp.TaskTimeoutError, match="longer than 0.2 s"):
        pool.apply_async(sleep, (60,), timeout=0.2).get(TIME)
    assert pool.apply(square, (3,)) == 9


def test_a_running_task_can_be_cancelled(pool: Any) -> None:
    results = [pool.apply_async(sleep, (60,)) for _ in range(5)]
    assert all(result.cancel() for result in results)
    for result in results:
        with pytest.raises(mp.TaskCancelledError):
            result.get(TIME)
    done = pool.apply_async(square, (3,))
    assert done.get(TIME) == 9
    assert done.cancel() is False


@pytest.mark.parametrize("how", ["die", "raise"])
def test_a_task_is_done_again_only_on_request(pool: Any, tmp_path: Path, how: str) -> None:
    again = {"retries": 1} if how == "die" else {"error_retries": 1}
    with pytest.raises((mp.WorkerDiedError, ValueError)):
        pool.apply(once, (str(tmp_path / "never"), how))
    assert pool.apply_async(once, (str(tmp_path / "apply"), how), **again).get(TIME) == "done"
    assert pool.starmap(once, [(str(tmp_path / "map"), how)], **again) == ["done"]
    with pytest.raises((mp.WorkerDiedError, ValueError)):
        pool.apply_async(exit_at_two if how == "die" else refuse, (2,), **again).get(TIME)


def test_maxtasksperchild_replaces_workers() -> None:
    with mp.Pool(2, maxtasksperchild=3) as pool:
        pids = [pool.apply(pid_of_worker) for _ in range(12)]
        assert max(pids.count(pid) for pid in pids) <= 3
        assert pool.map(square, range(30), chunksize=2) == [x * x for x in range(30)]


@pytest.mark.parametrize("wrong", [0, -1, "many", 1.5])
def test_wrong_numbers_are_refused(pool: Any, wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        mp.Pool(2, maxtasksperchild=wrong)
    with pytest.raises((ValueError, TypeError)):
        pool.apply_async(square, (1,), timeout=wrong if wrong != 1.5 else -1)
    with pytest.raises((ValueError, TypeError)):
        pool.map(square, [1], on_error=wrong)


def test_a_long_list_of_tiny_tasks_can_be_cancelled(pool: Any) -> None:
    pool.map(square, range(20_000))
    result = pool.map_async(square, range(1_000_000))
    if result.cancel():
        with pytest.raises(mp.TaskCancelledError):
            result.get(TIME)
    assert pool.map(square, range(10)) == [x * x for x in range(10)]
