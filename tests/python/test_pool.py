"""Pools: every task is answered once, whatever it does to its worker."""

from __future__ import annotations

import gc
import multiprocessing.pool
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import polyproc as mp
from polyproc.pool import MaybeEncodingError, Pool, RemoteTraceback, ThreadPool

SOON = 20.0


def square(x: int) -> int:
    return x * x


def add(a: int, b: int = 0) -> int:
    return a + b


def pid_of_worker(_: object = None) -> int:
    return os.getpid()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def kill_at_five(x: int) -> int:
    if x == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def exit_at_two(x: int) -> int:
    if x == 2:
        os._exit(7)
    return x


def sys_exit_at_two(x: int) -> int:
    if x == 2:
        sys.exit(3)
    return x


class Stubborn:
    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


class TwoArguments(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"code {code}: {reason}")


def return_stubborn(x: int) -> object:
    return Stubborn() if x == 2 else x


def raise_two_arguments(x: int) -> int:
    if x == 2:
        raise TwoArguments(77, "bad input")
    return x


def refuse(text: str) -> None:
    raise ValueError(text)


class Bomb:
    def __reduce__(self) -> Any:
        return refuse, ("cannot be rebuilt",)


def pool_in_a_task(x: int) -> int:
    with mp.Pool(1) as pool:
        return pool.apply(square, (x,))


def once(path: str, how: str) -> str:
    """Fails the first time."""
    if not os.path.exists(path):
        Path(path).touch()
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("the first time")
    return "done"


def raise_in_initializer(path: str) -> None:
    with open(path, "a") as file:
        file.write("started\n")
    raise ValueError("no licence")


def ignore_sigterm(_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def deep(_: object) -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def every(request: pytest.FixtureRequest) -> Any:
    return mp.get_context(request.param)


@pytest.fixture
def pool() -> Iterator[Any]:
    with mp.Pool(2) as pool:
        yield pool


def until(condition: Callable[[], bool], seconds: float = SOON) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


# ------------------------------------------------------------------------------------------------ what it is for


def test_every_way_to_submit_gives_the_same_results(every: Any) -> None:
    expected = [x * x for x in range(50)]
    with every.Pool(2) as pool:
        assert pool.map(square, range(50)) == expected
        assert pool.map(square, range(50), chunksize=7) == expected
        assert pool.map_async(square, iter(range(50))).get(SOON) == expected
        assert list(pool.imap(square, range(50))) == expected
        assert list(pool.imap(square, iter(range(50)), chunksize=7)) == expected
        assert sorted(pool.imap_unordered(square, range(50))) == expected
        assert pool.starmap(add, [(1, 2), (3,)]) == [3, 3]
        assert pool.starmap_async(add, [(1, 2), (3,)]).get(SOON) == [3, 3]
        assert pool.apply(add, (1,), {"b": 2}) == 3
        assert [pool.apply_async(square, (x,)).get(SOON) for x in range(5)] == expected[:5]


def test_it_is_a_pool_of_the_standard_library(pool: Any) -> None:
    assert isinstance(pool, multiprocessing.pool.Pool)
    assert len(pool._pool) == 2
    assert all(worker.daemon for worker in pool._pool)
    result = pool.apply_async(square, (2,))
    assert isinstance(result, multiprocessing.pool.ApplyResult)
    assert isinstance(pool.map_async(square, [2]), multiprocessing.pool.MapResult)
    with pytest.raises(NotImplementedError):
        pool.__reduce__()


def test_functions_that_plain_pickle_refuses_are_run(every: Any) -> None:
    pytest.importorskip("cloudpickle")
    factor = 3
    with every.Pool(1) as pool:
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
        assert result.get(SOON).sum() == 100_000
        for _ in range(50):
            assert pool.apply(numpy.ones, (1_000_000,)).size == 1_000_000


# ------------------------------------------------------------------------------------------------ one bad task


def test_a_killed_worker_fails_only_its_task(every: Any) -> None:
    with every.Pool(2) as pool:
        with pytest.raises(mp.WorkerDiedError, match=r"killed by SIGKILL.*task 5 \(argument 5\)") as caught:
            pool.map(kill_at_five, range(20))
        assert caught.value.exitcode == -signal.SIGKILL
        assert caught.value.index == 5
        assert str(caught.value.pid) in str(caught.value)
        results = pool.map(kill_at_five, range(20), on_error="return")
        assert [r for r in results if not isinstance(r, Exception)] == [x for x in range(20) if x != 5]
        assert pool.map(kill_at_five, range(4, 8), on_error="skip") == [4, 6, 7]
        assert until(lambda: len(pool._pool) == 2)
        assert len(set(pool.map(pid_of_worker, range(50)))) <= 2


def test_an_exit_code_is_named(pool: Any) -> None:
    results = [pool.apply_async(exit_at_two, (x,)) for x in range(6)]
    with pytest.raises(mp.WorkerDiedError, match=r"exited with code 7.*arguments \(2,\)"):
        results[2].get(SOON)
    assert [results[x].get(SOON) for x in (0, 1, 3, 4, 5)] == [0, 1, 3, 4, 5]


def test_a_stream_goes_on_after_a_death(pool: Any) -> None:
    results = pool.imap(exit_at_two, range(6))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(mp.WorkerDiedError, match="task 2"):
        next(results)
    assert list(results) == [3, 4, 5]
    assert sorted(pool.imap_unordered(exit_at_two, range(6), on_error="skip")) == [0, 1, 3, 4, 5]


def test_a_result_that_cannot_be_pickled_is_an_error_that_says_so(pool: Any) -> None:
    with pytest.raises(MaybeEncodingError, match="Stubborn.*not to be pickled"):
        pool.map(return_stubborn, range(6))
    assert pool.map(return_stubborn, range(6), on_error="skip") == [0, 1, 3, 4, 5]
    with pytest.raises(MaybeEncodingError, match="Recursion"):
        pool.apply(deep, (0,))
    assert pool.apply(square, (3,)) == 9


def test_an_exception_that_cannot_be_rebuilt_is_told_of(pool: Any) -> None:
    with pytest.raises(MaybeEncodingError, match="code 77: bad input") as caught:
        pool.map(raise_two_arguments, range(6))
    assert "raise TwoArguments(77" in str(caught.value.__cause__)


def test_arguments_that_cannot_be_pickled_or_rebuilt_fail_their_task(pool: Any) -> None:
    with pytest.raises(TypeError, match="not to be pickled"):
        pool.apply(square, (Stubborn(),))
    with pytest.raises(ValueError, match="cannot be rebuilt"):
        pool.apply(square, (Bomb(),))
    assert pool.apply(square, (3,)) == 9


def test_sys_exit_in_a_task_is_its_error(pool: Any) -> None:
    before = {worker.pid for worker in pool._pool}
    with pytest.raises(mp.TaskExitError, match=r"sys\.exit\(3\)"):
        pool.map(sys_exit_at_two, range(6))
    assert {worker.pid for worker in pool._pool} == before


def test_the_remote_traceback_is_the_cause(pool: Any) -> None:
    with pytest.raises(ValueError, match="what it says") as caught:
        pool.apply(refuse, ("what it says",))
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "raise ValueError(text)" in str(caught.value.__cause__)


def test_an_initializer_that_raises_is_the_error_of_every_task(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with mp.Pool(2, raise_in_initializer, (str(log),)) as pool:
        result = pool.apply_async(square, (1,))
        with pytest.raises(BrokenProcessPool, match="initializer failed.*no licence") as caught:
            result.get(SOON)
        assert "raise ValueError" in str(caught.value.__cause__.__cause__)
        with pytest.raises(BrokenProcessPool):
            pool.map(square, range(3))
    assert len(log.read_text().splitlines()) < 10


def test_idle_workers_that_are_killed_are_replaced(pool: Any) -> None:
    for worker in list(pool._pool):
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    assert pool.map(square, range(20)) == [x * x for x in range(20)]


def test_killing_workers_all_the_time_loses_and_doubles_nothing() -> None:
    with mp.Pool(4) as pool:
        stop = threading.Event()

        def kill() -> None:
            while not stop.wait(0.01):
                for worker in pool._pool[:1]:
                    os.kill(worker.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            results = pool.map(square, range(20_000), on_error="return")
        finally:
            stop.set()
            killer.join()
    for x, result in enumerate(results):
        assert result == x * x or isinstance(result, mp.WorkerDiedError)


def mixed(x: int) -> Any:
    if x % 997 == 5:
        raise ValueError(x)
    if x % 997 == 6:
        return Stubborn()
    if x % 997 == 7:
        return b"x" * 100_000
    if x % 997 == 8:
        return "y" * 31_000
    if x == 4500:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize("star", [False, True])
def test_tiny_tasks_that_travel_together_are_answered_one_by_one(pool: Any, star: bool) -> None:
    pool.map(square, range(20_000))
    if star:
        results = pool.starmap(mixed, ((x,) for x in range(20_000)), on_error="return")
    else:
        results = pool.map(mixed, range(20_000), on_error="return")
    assert len(results) == 20_000
    for x, result in enumerate(results):
        if x == 4500:
            assert isinstance(result, mp.WorkerDiedError)
            assert result.index == 4500
        elif x % 997 == 5:
            assert isinstance(result, ValueError) and result.args == (x,)
        elif x % 997 == 6:
            assert isinstance(result, MaybeEncodingError)
        elif x % 997 == 7:
            assert result == b"x" * 100_000
        elif x % 997 == 8:
            assert result == "y" * 31_000
        else:
            assert result == x


def test_a_long_list_of_tiny_tasks_can_be_cancelled(pool: Any) -> None:
    pool.map(square, range(20_000))
    result = pool.map_async(square, range(1_000_000))
    if result.cancel():
        with pytest.raises(mp.TaskCancelledError):
            result.get(SOON)
    assert pool.map(square, range(10)) == [x * x for x in range(10)]


# ------------------------------------------------------------------------------------------------ control


def test_a_timeout_ends_that_task_only(pool: Any) -> None:
    begun = time.monotonic()
    results = pool.map(sleep, [0, 0.01, 60, 0], timeout=0.3, on_error="return")
    assert isinstance(results[2], mp.TaskTimeoutError)
    assert isinstance(results[2], mp.TimeoutError)
    assert results[:2] + results[3:] == [0, 0.01, 0]
    assert time.monotonic() - begun < 10
    with pytest.raises(mp.TaskTimeoutError, match="longer than 0.2 s"):
        pool.apply_async(sleep, (60,), timeout=0.2).get(SOON)
    assert pool.apply(square, (3,)) == 9


def test_a_running_task_can_be_cancelled(pool: Any) -> None:
    results = [pool.apply_async(sleep, (60,)) for _ in range(5)]
    assert all(result.cancel() for result in results)
    for result in results:
        with pytest.raises(mp.TaskCancelledError):
            result.get(SOON)
    done = pool.apply_async(square, (3,))
    assert done.get(SOON) == 9
    assert done.cancel() is False


@pytest.mark.parametrize("how", ["die", "raise"])
def test_a_task_is_done_again_only_on_request(pool: Any, tmp_path: Path, how: str) -> None:
    again = {"retries": 1} if how == "die" else {"error_retries": 1}
    with pytest.raises((mp.WorkerDiedError, ValueError)):
        pool.apply(once, (str(tmp_path / "never"), how))
    assert pool.apply_async(once, (str(tmp_path / "apply"), how), **again).get(SOON) == "done"
    assert pool.starmap(once, [(str(tmp_path / "map"), how)], **again) == ["done"]
    with pytest.raises((mp.WorkerDiedError, ValueError)):
        pool.apply_async(exit_at_two if how == "die" else refuse, (2,), **again).get(SOON)


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


# ------------------------------------------------------------------------------------------------ flow


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
    short.get(SOON)
    assert time.monotonic() - begun < 2
    assert long.cancel()


def test_callbacks_run_before_the_result_is_ready(pool: Any) -> None:
    seen: list[Any] = []
    result = pool.apply_async(square, (3,), callback=seen.append)
    assert result.get(SOON) == 9
    assert seen == [9]
    failed = pool.map_async(refuse, ["x"], callback=seen.append, error_callback=seen.append)
    failed.wait(SOON)
    assert isinstance(seen[1], ValueError)
    assert not failed.successful()


def test_a_callback_that_raises_harms_nobody(pool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def bad(_: object) -> None:
        raise ValueError("callback failed on purpose")

    assert pool.apply_async(square, (3,), callback=bad).get(SOON) == 9
    assert pool.apply_async(square, (4,)).get(SOON) == 16
    assert "callback failed on purpose" in capsys.readouterr().err


def test_a_callback_may_terminate_the_pool() -> None:
    pool = mp.Pool(2)
    pool.apply_async(square, (3,), callback=lambda _: pool.terminate())
    slow = pool.apply_async(sleep, (60,))
    with pytest.raises(mp.PoolTerminatedError):
        slow.get(SOON)
    assert until(lambda: pool._state == "TERMINATE")
    pool.join()


def test_work_goes_on_while_nobody_waits(tmp_path: Path) -> None:
    with mp.Pool(2) as pool:
        for number in range(40):
            pool.apply_async(once, (str(tmp_path / str(number)), "raise"))
        assert until(lambda: len(list(tmp_path.iterdir())) == 40)


# ------------------------------------------------------------------------------------------------ the end


def test_close_and_join_do_what_was_submitted() -> None:
    pool = mp.Pool(2)
    results = [pool.apply_async(square, (x,)) for x in range(50)]
    stream = pool.imap(square, range(100))
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(square, (1,))
    pool.join()
    assert [r.get(0) for r in results] == [x * x for x in range(50)]
    assert list(stream) == [x * x for x in range(100)]
    assert not mp.active_children()


def test_terminate_ends_workers_that_will_not() -> None:
    pool = mp.Pool(2)
    result = pool.map_async(ignore_sigterm, range(2), chunksize=1)
    with pytest.raises(mp.TimeoutError):
        result.get(0.3)
    os.kill(pool._pool[0].pid, signal.SIGSTOP)
    begun = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - begun < 5
    with pytest.raises(mp.PoolTerminatedError):
        result.get()
    assert not mp.active_children()


def test_a_pool_that_is_dropped_ends_its_workers() -> None:
    pool = mp.Pool(2)
    pids = [worker.pid for worker in pool._pool]
    assert pool.map(square, range(3)) == [0, 1, 4]
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del pool
        gc.collect()
    assert until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_nothing_stays_open() -> None:
    with mp.Pool(2) as pool:
        pool.map(square, range(10))
    pool.join()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with mp.Pool(2) as pool:
            pool.map(square, range(10))
        pool.join()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del pool
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_forked_child_is_told_that_the_pool_is_not_its_own(pool: Any) -> None:
    assert pool.apply(square, (2,)) == 4
    queue = mp.SimpleQueue()
    child = mp.get_context("fork").Process(target=_use, args=(pool, queue))
    child.start()
    assert "belongs to the process" in queue.get()
    child.join()
    assert pool.apply(square, (3,)) == 9


def _use(pool: Any, queue: Any) -> None:
    try:
        pool.apply(square, (2,))
    except RuntimeError as error:
        queue.put(str(error))


def test_ctrl_c_ends_a_map(pool: Any) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pool.map(sleep, [30, 30])
    timer.join()
