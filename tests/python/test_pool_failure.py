"""Pools: every task is answered once, whatever it does to its worker."""

from __future__ import annotations

import gc
import os
import signal
import weakref
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from conftest import TIME, until
from pool_storm import descriptors, resident, storm
from pool_tasks import (
    Bomb,
    Stubborn,
    deep,
    exit_at_two,
    kill_at_five,
    pid_of_worker,
    raise_in_initializer,
    raise_two_arguments,
    refuse,
    return_stubborn,
    square,
    sys_exit_at_two,
)

import polyproc as mp
from polyproc.pool import MaybeEncodingError, RemoteTraceback


def test_a_killed_worker_fails_only_its_task(context: Any) -> None:
    with context.Pool(2) as pool:
        with pytest.raises(mp.WorkerDiedError, match=r"killed by SIGKILL.*task 5 \(argument 5\)") as caught:
            pool.map(kill_at_five, range(20))
        assert caught.value.exitcode == -signal.SIGKILL
        assert caught.value.index == 5
        assert str(caught.value.pid) in str(caught.value)
        results = pool.map(kill_at_five, range(20), on_error="return")
        assert [r for r in results if not isinstance(r, Exception)] == [x for x in range(20) if x != 5]
        assert pool.map(kill_at_five, range(4, 8), on_error="skip") == [4, 6, 7]
        until(lambda: len(pool._pool) == 2)
        assert len(set(pool.map(pid_of_worker, range(50)))) <= 2


def test_an_exit_code_is_named(pool: Any) -> None:
    results = [pool.apply_async(exit_at_two, (x,)) for x in range(6)]
    with pytest.raises(mp.WorkerDiedError, match=r"exited with code 7.*arguments \(2,\)"):
        results[2].get(TIME)
    assert [results[x].get(TIME) for x in (0, 1, 3, 4, 5)] == [0, 1, 3, 4, 5]


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


def test_a_result_whose_error_was_raised_keeps_no_frame_alive(pool: Any) -> None:
    def ask() -> weakref.ref[Any]:
        local: set[int] = set()
        result = pool.apply_async(refuse, ("what it says",))
        with pytest.raises(ValueError, match="what it says"):
            result.get(TIME)
        return weakref.ref(local)

    local = ask()
    gc.collect()
    assert local() is None


def test_whoever_keeps_a_result_and_is_its_callback_is_not_kept_alive(pool: Any) -> None:
    class Asking:
        def __init__(self) -> None:
            self.result = pool.apply_async(square, (3,), callback=self.take)

        def take(self, value: int) -> None:
            self.value = value

    asking = Asking()
    assert asking.result.get(TIME) == 9 and asking.value == 9
    left = weakref.ref(asking)
    del asking
    # The thread that runs callbacks lets go of it after the result is there.
    until(lambda: gc.collect() >= 0 and left() is None)


def test_an_initializer_that_raises_is_the_error_of_every_task(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with mp.Pool(2, raise_in_initializer, (str(log),)) as pool:
        result = pool.apply_async(square, (1,))
        with pytest.raises(BrokenProcessPool, match="initializer failed.*no licence") as caught:
            result.get(TIME)
        assert "raise ValueError" in str(caught.value.__cause__.__cause__)
        with pytest.raises(BrokenProcessPool):
            pool.map(square, range(3))
    assert len(log.read_text().splitlines()) < 10


def test_idle_workers_that_are_killed_are_replaced(pool: Any) -> None:
    for worker in list(pool._pool):
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    assert pool.map(square, range(20)) == [x * x for x in range(20)]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_killing_workers_all_the_time_loses_and_doubles_nothing(method: str) -> None:
    storm(method, tasks=6000, workers=4, every=0.01, seed=7)
    gc.collect()
    before, opened = resident(), descriptors()
    told = storm(method, tasks=6000, workers=4, every=0.01, seed=8)
    assert told["kills"] > 0
    gc.collect()
    assert resident() < before + 16 * 2**20
    until(lambda: descriptors() <= opened)
    assert not mp.active_children()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_no_descriptor_of_a_worker_is_open_after_join(method: str) -> None:
    def run() -> None:
        with mp.get_context(method).Pool(16) as pool:
            assert pool.map(square, range(32), chunksize=1) == [x * x for x in range(32)]
            pool.close()
            pool.join()

    run()
    opened = descriptors()
    for _ in range(4):
        run()
        assert descriptors() <= opened


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


def returns_a_lambda() -> Any:
    return lambda: 1


def test_a_result_that_pickle_refuses_is_an_error_unless_the_function_itself_went_by_value() -> None:
    pytest.importorskip("cloudpickle")
    with mp.Pool(1) as pool:
        with pytest.raises(MaybeEncodingError, match="returns_a_lambda"):
            pool.apply(returns_a_lambda)
        with pytest.raises(MaybeEncodingError, match="returns_a_lambda"):
            pool.starmap(returns_a_lambda, [()] * 3)
        assert pool.apply(lambda: lambda: 2)() == 2
        assert [made() for made in pool.map(lambda x: lambda: x, [3, 4])] == [3, 4]


def note_and_exit(task: tuple[str, int]) -> tuple[int, int]:
    log, number = task
    with open(log, "a") as file:
        file.write(f"{number} ")
    if number == 6:
        os._exit(7)
    return number, os.getpid()


def test_a_death_inside_a_chunk_costs_one_task_of_it_and_repeats_none(context: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with context.Pool(2) as pool:
        answers = pool.map(note_and_exit, [(str(log), x) for x in range(20)], chunksize=5, on_error="return")
    assert [answer[0] for answer in answers if isinstance(answer, tuple)] == [x for x in range(20) if x != 6]
    assert isinstance(answers[6], mp.WorkerDiedError) and answers[6].index == 6
    # Each was begun once, the one that died as well.
    assert sorted(map(int, log.read_text().split())) == list(range(20))


def test_an_explicit_chunk_is_done_by_one_worker(pool: Any, tmp_path: Path) -> None:
    answers = pool.map(note_and_exit, [(str(tmp_path / "log"), 100 + x) for x in range(12)], chunksize=4)
    pids = [pid for _, pid in answers]
    assert all(len(set(pids[at : at + 4])) == 1 for at in range(0, 12, 4))


def test_callbacks_and_deep_results_are_the_same_under_every_start_method(
    context: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = context.Pool(2)

    def bad(_: object) -> None:
        raise ValueError("callback failed on purpose")

    assert pool.apply_async(square, (3,), callback=bad).get(TIME) == 9
    assert "callback failed on purpose" in capsys.readouterr().err
    with pytest.raises(MaybeEncodingError, match=r"Recursion.*in a task"):
        pool.apply(deep, (0,))
    with pytest.raises(MaybeEncodingError, match=r"Recursion.*in task 0 \(argument 0\)"):
        pool.map(deep, [0])
    done = pool.apply_async(square, (4,), callback=lambda _: pool.terminate())
    done.wait(TIME)
    with pytest.raises((ValueError, mp.PoolTerminatedError)):
        for _ in range(1000):
            pool.apply(square, (5,))
    pool.join()
