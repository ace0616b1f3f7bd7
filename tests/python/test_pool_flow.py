"""Pools: what is drawn, what goes first, and who is called back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TIME, until
from pool_tasks import once, refuse, sleep, square

import polyproc as mp


def test_a_stream_draws_little_ahead(pool: Any) -> None:
    drawn: list[int] = []

    def source() -> Iterator[int]:
        for x in range(20_000):
            drawn.append(x)
            yield x

    results = pool.imap(square, source())
    assert next(results) == 0
    time.sleep(0.1)
    assert len(drawn) <= 2 * 2 * 1
    assert sum(1 for _ in results) == 19_999
    drawn.clear()
    bounded = pool.imap(square, source(), buffersize=3)
    assert [next(bounded) for _ in range(100)] == [x * x for x in range(100)]
    assert len(drawn) <= 103


def test_an_iterable_that_raises_ends_the_stream_there(pool: Any) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise KeyError("no more")

    results = pool.imap(square, source())
    assert next(results) == 1
    with pytest.raises(KeyError, match="no more"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    with pytest.raises(KeyError):
        pool.map(square, source())


def test_short_tasks_do_not_wait_behind_a_long_one(pool: Any) -> None:
    pool.map(sleep, [0] * 200)
    begun = time.monotonic()
    long = pool.apply_async(sleep, (3,))
    short = pool.map_async(sleep, [0] * 200)
    short.get(TIME)
    assert time.monotonic() - begun < 2
    assert long.cancel()


def test_callbacks_run_before_the_result_is_ready(pool: Any) -> None:
    seen: list[Any] = []
    result = pool.apply_async(square, (3,), callback=seen.append)
    assert result.get(TIME) == 9
    assert seen == [9]
    failed = pool.map_async(refuse, ["x"], callback=seen.append, error_callback=seen.append)
    failed.wait(TIME)
    assert isinstance(seen[1], ValueError)
    assert not failed.successful()


def test_a_callback_that_raises_harms_nobody(pool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def bad(_: object) -> None:
        raise ValueError("callback failed on purpose")

    assert pool.apply_async(square, (3,), callback=bad).get(TIME) == 9
    assert pool.apply_async(square, (4,)).get(TIME) == 16
    assert "callback failed on purpose" in capsys.readouterr().err


def test_a_callback_may_terminate_the_pool() -> None:
    pool = mp.Pool(2)
    pool.apply_async(square, (3,), callback=lambda _: pool.terminate())
    slow = pool.apply_async(sleep, (60,))
    with pytest.raises(mp.PoolTerminatedError):
        slow.get(TIME)
    until(lambda: pool._state == "TERMINATE")
    pool.join()


def test_work_goes_on_while_nobody_waits(tmp_path: Path) -> None:
    with mp.Pool(2) as pool:
        for number in range(40):
            pool.apply_async(once, (str(tmp_path / str(number)), "raise"))
        until(lambda: len(list(tmp_path.iterdir())) == 40)
