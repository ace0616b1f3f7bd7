"""The failure matrix: one bad task among six over two workers, under every start method, and what the user reads."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from pool_tasks import (
    exit_at_two,
    pool_in_a_task,
    raise_in_initializer,
    raise_two_arguments,
    return_stubborn,
    square,
    sys_exit_at_two,
)

import polyproc as mp
from polyproc.pool import MaybeEncodingError

#: Well above what the slowest start method takes, and far below any time limit of the tests.
NO_HANG = 15.0

OTHERS = [0, 1, 3, 4, 5]


def check_others(pool: Any, function: Any) -> None:
    """The other five are done, and the pool goes on with as many workers as it had."""
    assert pool.map(function, range(6), on_error="skip") == OTHERS
    assert pool.map(square, range(6)) == [x * x for x in range(6)]
    assert len(pool._pool) == 2


@pytest.fixture(autouse=True)
def no_hang() -> Any:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < NO_HANG


def test_a_worker_that_exits(context: Any) -> None:
    with context.Pool(2) as pool:
        with pytest.raises(mp.WorkerDiedError) as caught:
            pool.map(exit_at_two, range(6))
        error = caught.value
        assert (error.exitcode, error.index) == (7, 2)
        assert re.fullmatch(
            rf"the worker process with pid {error.pid} exited with code 7 while it ran task 2 \(argument 2\); "
            r"the pool goes on without that task",
            str(error),
        )
        check_others(pool, exit_at_two)


def test_a_result_that_does_not_pickle(context: Any) -> None:
    with context.Pool(2) as pool:
        with pytest.raises(MaybeEncodingError) as caught:
            pool.map(return_stubborn, range(6))
        shown = str(caught.value)
        assert "task 2 (argument 2)" in shown and "Stubborn" in shown and "not to be pickled" in shown, shown
        check_others(pool, return_stubborn)


def test_an_exception_that_cannot_be_unpickled(context: Any) -> None:
    with context.Pool(2) as pool:
        with pytest.raises(MaybeEncodingError) as caught:
            pool.map(raise_two_arguments, range(6))
        shown = str(caught.value)
        assert "task 2 (argument 2)" in shown and "code 77: bad input" in shown and "cannot be rebuilt" in shown, shown
        assert 'raise TwoArguments(77, "bad input")' in str(caught.value.__cause__)
        check_others(pool, raise_two_arguments)


def test_sys_exit_in_a_task(context: Any) -> None:
    with context.Pool(2) as pool:
        before = {worker.pid for worker in pool._pool}
        with pytest.raises(mp.TaskExitError) as caught:
            pool.map(sys_exit_at_two, range(6))
        assert str(caught.value) == "task 2 (argument 2) called sys.exit(3) (SystemExit)"
        check_others(pool, sys_exit_at_two)
        assert {worker.pid for worker in pool._pool} == before


def exit_in_initializer(code: int) -> None:
    os._exit(code)


def test_an_initializer_that_raises(context: Any, tmp_path: Path, capfd: Any) -> None:
    log = tmp_path / "log"
    with context.Pool(2, raise_in_initializer, (str(log),)) as pool:
        with pytest.raises(BrokenProcessPool) as caught:
            pool.map(square, range(6))
        assert "initializer failed: ValueError('no licence')" in str(caught.value)
        assert "raise ValueError" in str(caught.value.__cause__.__cause__)
        with pytest.raises(BrokenProcessPool):
            pool.apply(square, (1,))
    # No endless respawn.
    assert len(log.read_text().splitlines()) <= 2 + 2 * (2 + 2)


def test_an_initializer_that_exits(context: Any) -> None:
    with context.Pool(2, exit_in_initializer, (9,)) as pool:
        with pytest.raises(BrokenProcessPool, match=r"end before they are ready.*exited with code 9"):
            pool.map(square, range(6))


def test_a_lambda(context: Any) -> None:
    pytest.importorskip("cloudpickle")
    with context.Pool(2) as pool:
        assert pool.map(lambda x: x + 1, range(6)) == [1, 2, 3, 4, 5, 6]


def test_a_pool_inside_a_task(context: Any) -> None:
    with context.Pool(2) as pool:
        assert pool.map(pool_in_a_task, range(6)) == [x * x for x in range(6)]
