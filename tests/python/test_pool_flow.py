"""Pools: what is drawn, what goes first, and who is called back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import polyproc as mp
import pytest
from conftest import TIME, until
from pool_tasks import (
    add,
    exit_at_two,
    identity,
    once,
    pid_of_worker_after,
    refuse,
    refuse_sevens,
    sleep,
    square,
    sys_exit_at_two,
)


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


@pytest.mark.parametrize("chunksize", [1, 5])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_at_most_twice_workers_times_chunk_are_drawn_ahead(pool: Any, method: str, chunksize: int) -> None:
    consumed, ahead = 0, []

    def source() -> Iterator[float]:
        for number in range(1, 20_001):
            ahead.append(number - consumed)
            yield 0.002

    results = getattr(pool, method)(sleep, source(), chunksize)
    for _ in range(40):
        assert next(results) == 0.002
        consumed += 1
    # Nothing more is drawn while nobody asks, whatever the workers have done by now.
    assert pool.apply(square, (3,)) == 9
    assert max(ahead) <= 2 * 2 * chunksize
    # It is given up; what was drawn is done.


@pytest.mark.parametrize("chunksize", [None, 1, 5])
@pytest.mark.parametrize("method", ["map", "starmap"])
def test_a_map_over_a_generator_draws_as_its_tasks_are_done(
    pool: Any, method: str, chunksize: int | None, tmp_path: Path
) -> None:
    log, ahead = tmp_path / "log", []
    log.touch()
    # Tiny tasks before say nothing about these.
    pool.map(square, range(5000))

    def source() -> Iterator[Any]:
        for number in range(60):
            ahead.append(number + 1 - log.stat().st_size)
            yield (str(log),) if method == "starmap" else str(log)

    assert getattr(pool, method)(work_and_note, source(), chunksize) == [1] * 60
    assert max(ahead) <= 2 * 2 * (chunksize or 1)


def work_and_note(log: str) -> int:
    time.sleep(0.005)
    with open(log, "ab") as file:
        return file.write(b"x")


def test_a_map_over_a_generator_gives_what_a_map_over_a_list_gives(pool: Any) -> None:
    expected = [x * x for x in range(30_000)]
    assert pool.map(square, iter(range(30_000))) == expected
    assert pool.map(square, iter(range(3000)), 7) == expected[:3000]
    assert pool.map(square, range(3000), buffersize=3) == expected[:3000]
    assert pool.map(square, iter(())) == []
    with pytest.raises(mp.WorkerDiedError, match=r"task 2 \(argument 2\)"):
        pool.map(exit_at_two, iter(range(6)))
    with pytest.raises(mp.TaskExitError, match=r"task 102 \(argument 2\)"):
        pool.map(sys_exit_at_two, iter([0] * 102 + [2, 0]))
    assert pool.map(exit_at_two, iter(range(6)), on_error="skip") == [0, 1, 3, 4, 5]
    assert isinstance(pool.map(exit_at_two, iter(range(6)), on_error="return")[2], mp.WorkerDiedError)


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


def test_a_worker_shares_the_bundle_whose_tasks_turn_out_to_be_long(pool: Any) -> None:
    # What is known of the pace is that of quick tasks: these are sent in bundles, and then take as long as they like.
    pool.map(square, range(20_000))
    workers = pool.map(pid_of_worker_after, [0.02] * 60)
    shares = sorted(workers.count(pid) for pid in set(workers))
    assert len(shares) == 2
    assert shares[0] >= 20


def test_bundles_of_what_is_plain_and_what_is_not(pool: Any) -> None:
    items = [kind for number in range(5000) for kind in (number, Fraction(number, 7), "x" * (number % 300), None)]
    for _ in range(2):
        assert pool.map(identity, items) == items
    numbers = range(10**6, -(10**6), -173)
    assert pool.map(square, numbers) == [x * x for x in numbers]
    huge = range(2**62, 2**62 + 40_000, 4)
    assert pool.map(identity, huge) == list(huge)
    assert pool.starmap(add, [(x, x) for x in range(9000)]) == [2 * x for x in range(9000)]


def test_errors_in_bundles_keep_their_places(pool: Any) -> None:
    pool.map(square, range(5000))
    found = pool.map(refuse_sevens, range(5000), on_error="return")
    assert [x for x, result in enumerate(found) if isinstance(result, ValueError)] == list(range(0, 5000, 7))
    assert pool.map(refuse_sevens, range(5000), on_error="skip") == [x for x in range(5000) if x % 7]
    with pytest.raises(ValueError, match="seven: 0"):
        pool.map(refuse_sevens, range(5000))


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
