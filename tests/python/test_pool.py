"""Pools: the same results by every way in, for functions and data of every kind."""

from __future__ import annotations

import multiprocessing.pool
from typing import Any

import pytest
from conftest import TIME
from pool_tasks import add, pool_in_a_task, square

import polyproc as mp
from polyproc.pool import Pool, ThreadPool


def test_every_way_to_submit_gives_the_same_results(context: Any) -> None:
    expected = [x * x for x in range(50)]
    with context.Pool(2) as pool:
        assert pool.map(square, range(50)) == expected
        assert pool.map(square, range(50), chunksize=7) == expected
        assert pool.map_async(square, iter(range(50))).get(TIME) == expected
        assert list(pool.imap(square, range(50))) == expected
        assert list(pool.imap(square, iter(range(50)), chunksize=7)) == expected
        assert sorted(pool.imap_unordered(square, range(50))) == expected
        assert pool.starmap(add, [(1, 2), (3,)]) == [3, 3]
        assert pool.starmap_async(add, [(1, 2), (3,)]).get(TIME) == [3, 3]
        assert pool.apply(add, (1,), {"b": 2}) == 3
        assert [pool.apply_async(square, (x,)).get(TIME) for x in range(5)] == expected[:5]


def test_it_is_a_pool_of_the_standard_library(pool: Any) -> None:
    assert isinstance(pool, multiprocessing.pool.Pool)
    assert len(pool._pool) == 2
    assert all(worker.daemon for worker in pool._pool)
    result = pool.apply_async(square, (2,))
    assert isinstance(result, multiprocessing.pool.ApplyResult)
    assert isinstance(pool.map_async(square, [2]), multiprocessing.pool.MapResult)
    with pytest.raises(NotImplementedError):
        pool.__reduce__()


def test_functions_that_plain_pickle_refuses_are_run(context: Any) -> None:
    pytest.importorskip("cloudpickle")
    factor = 3
    with context.Pool(1) as pool:
        assert pool.map(lambda x: x * factor, [1, 2]) == [3, 6]
        assert pool.apply(lambda x: x + factor, (1,)) == 4


def test_bound_methods_see_their_object_as_it_is_at_the_call(pool: Any) -> None:
    numbers = [1]
    assert pool.apply(numbers.count, (1,)) == 1
    numbers.append(1)
    assert pool.apply(numbers.count, (1,)) == 2
    assert pool.map(numbers.index, [1, 1]) == [0, 0]


def test_large_arguments_and_results_come_whole(pool: Any) -> None:
    numpy = pytest.importorskip("numpy")
    for size in (10_000, 1_000_000):
        array = numpy.arange(size)
        back = pool.apply(numpy.negative, (array,))
        assert (back == -array).all()
        back[0] = 1
        assert pool.map(len, [b"x" * size, bytearray(size), "y" * size]) == [size] * 3
    assert pool.map(bytes, [3_000_000] * 4) == [bytes(3_000_000)] * 4


def test_a_lock_can_be_an_argument(pool: Any) -> None:
    lock = mp.Lock()
    assert pool.apply(_take_and_give, (lock,)) is True
    assert lock.acquire(block=False)


def _take_and_give(lock: Any) -> bool:
    with lock:
        return True


def test_tasks_may_start_processes(pool: Any) -> None:
    assert pool.map(pool_in_a_task, [1, 2]) == [1, 4]


def test_subclasses_that_replace_the_machinery_run_on_the_standard_pool() -> None:
    class Mine(Pool):
        def _setup_queues(self) -> None:
            super()._setup_queues()
            self.were_set_up = True

    with Mine(2) as mine:
        assert mine.were_set_up
        assert isinstance(mine, Pool)
        assert mine.map(square, range(10)) == [x * x for x in range(10)]
    mine.join()


def test_thread_pools_are_those_of_the_standard_library() -> None:
    with ThreadPool(2) as pool:
        assert isinstance(pool, multiprocessing.pool.ThreadPool)
        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]


def test_results_are_released() -> None:
    numpy = pytest.importorskip("numpy")
    with mp.Pool(1) as pool:
        result = pool.apply_async(numpy.ones, (100_000,))
        assert result.get(TIME).sum() == 100_000
        for _ in range(50):
            assert pool.apply(numpy.ones, (1_000_000,)).size == 1_000_000
