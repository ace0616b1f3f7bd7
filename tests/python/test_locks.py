"""Locks and semaphores: the standard library's meanings, and nobody waits for the dead."""

from __future__ import annotations

import os
import random
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from conftest import TIME, kill, until, until_it_sleeps

import polyproc as mp
from polyproc import synchronize
from polyproc.errors import HolderDiedWarning

#: Within this, whoever waited for a dead process goes on.
SOON = 5.0


# ------------------------------------------------------------------------------------------------ locks


def test_a_lock_is_acquired_once_and_released_by_anybody() -> None:
    lock = mp.Lock()
    assert lock.acquire() is True
    assert lock.acquire(False) is False
    assert lock.acquire(block=False) is False
    assert lock.acquire(True, 0) is False
    assert lock.acquire(timeout=-1) is False
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join(TIME)
    assert lock.acquire(timeout=TIME) is True
    lock.release()
    with pytest.raises(ValueError, match="semaphore or lock released too many times"):
        lock.release()


def test_a_recursive_lock_is_acquired_again_by_its_thread_only() -> None:
    lock = mp.RLock()
    assert lock.acquire() and lock.acquire()
    seen: list[object] = []

    def other() -> None:
        seen.append(lock.acquire(timeout=0.01))
        try:
            lock.release()
        except AssertionError as error:
            seen.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(TIME)
    assert seen == [False, "attempt to release recursive lock not owned by thread"]
    lock.release()
    lock.release()
    with pytest.raises(AssertionError):
        lock.release()


def test_locks_say_who_holds_them() -> None:
    lock, recursive = mp.Lock(), mp.RLock()
    assert repr(lock) == "<Lock(owner=None)>"
    assert repr(recursive) == "<RLock(None, 0)>"
    with lock, recursive, recursive:
        assert repr(lock) == "<Lock(owner=MainProcess)>"
        assert repr(recursive) == "<RLock(MainProcess, 2)>"
        seen: list[str] = []
        thread = threading.Thread(target=lambda: seen.extend([repr(lock), repr(recursive)]))
        thread.start()
        thread.join(TIME)
    assert seen == ["<Lock(owner=SomeOtherThread)>", "<RLock(SomeOtherThread, nonzero)>"]

    def hold() -> None:
        with lock:
            seen.append(repr(lock))

    thread = threading.Thread(target=hold, name="T")
    thread.start()
    thread.join(TIME)
    assert seen[-1] == "<Lock(owner=MainProcess|T)>"


def _say_who_holds(lock: Any, recursive: Any, answers: Any) -> None:
    answers.put((repr(lock), repr(recursive), lock._semlock._count(), recursive._semlock._is_mine()))


def test_another_process_sees_that_the_lock_is_held(context: Any, start: Callable[..., Any]) -> None:
    lock, recursive, answers = context.Lock(), context.RLock(), context.Queue()
    with lock, recursive:
        start(context, _say_who_holds, lock, recursive, answers)
        assert answers.get(timeout=TIME) == (
            "<Lock(owner=SomeOtherProcess)>",
            "<RLock(SomeOtherProcess, nonzero)>",
            0,
            False,
        )


def test_the_standard_surface_of_a_lock_is_there() -> None:
    lock, recursive, bounded = mp.Lock(), mp.RLock(), mp.BoundedSemaphore(3)
    assert (lock._semlock.kind, lock._semlock.maxvalue, lock._semlock.name) == (synchronize.SEMAPHORE, 1, None)
    assert (recursive._semlock.kind, recursive._semlock.maxvalue) == (synchronize.RECURSIVE_MUTEX, 1)
    assert (bounded._semlock.maxvalue, bounded._semlock._get_value()) == (3, 3)
    assert lock._semlock.handle != recursive._semlock.handle
    assert not lock._semlock._is_zero()
    with lock:
        assert (lock._semlock._count(), lock._semlock._is_mine(), lock._semlock._is_zero()) == (1, True, True)
        assert lock.locked()
    with bounded:
        assert (bounded._semlock._count(), bounded._semlock._is_mine()) == (1, True)
    assert isinstance(synchronize.Lock(ctx=None), synchronize.SemLock)


@pytest.mark.parametrize("call", ["acquire(timeout='1')", "acquire(True, [])", "acquire(False, 'x')"])
def test_a_timeout_that_is_no_number_is_named(call: str) -> None:
    lock = mp.Lock()
    with pytest.raises(TypeError, match="timeout must be a number"):
        eval(f"lock.{call}")
    assert lock.acquire(False), "a refused call leaves the lock alone"


@pytest.mark.parametrize("call", ["acquire(1, 2, 3)", "acquire(wait=True)", "acquire(True, block=True)"])
def test_arguments_that_acquire_does_not_take_are_refused(call: str) -> None:
    lock = mp.Lock()
    with pytest.raises(TypeError):
        eval(f"lock.{call}")
    assert lock.acquire(False)


def test_a_lock_excludes_processes_from_each_other(context: Any, start: Callable[..., Any]) -> None:
    lock, counter = context.Lock(), context.RawValue("l", 0)
    processes = [start(context, _count, lock, counter, 2000) for _ in range(3)]
    for process in processes:
        process.join(TIME)
    assert counter.value == 6000


def _count(lock: Any, counter: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            counter.value += 1


def test_many_threads_share_one_lock() -> None:
    lock, counter = mp.Lock(), [0]

    def work() -> None:
        for _ in range(2000):
            with lock:
                counter[0] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIME)
    assert counter == [8000]


# ------------------------------------------------------------------------------------------------ a holder that dies


def _hold(lock: Any, ready: Any) -> None:
    lock.acquire()
    ready.send(os.getpid())
    threading.Event().wait()


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_the_lock_of_a_killed_process_goes_to_the_next_with_a_warning(
    kind: str, context: Any, start: Callable[..., Any]
) -> None:
    lock = getattr(context, kind)()
    ours, theirs = context.Pipe(False)
    holder = start(context, _hold, lock, theirs)
    pid = ours.recv()
    assert not lock.acquire(timeout=0.01)
    kill(holder)
    with pytest.warns(HolderDiedWarning, match=f"process {pid} died while it held this lock") as caught:
        assert lock.acquire(timeout=SOON)
    assert caught[0].filename == __file__
    lock.release()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with lock:
            pass


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_who_wants_an_exception_gets_no_lock_with_it(kind: str, start: Callable[..., Any]) -> None:
    context = mp.get_context("fork")
    lock = getattr(context, kind)()
    ours, theirs = context.Pipe(False)
    holder = start(context, _hold, lock, theirs)
    ours.recv()
    kill(holder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", mp.HolderDiedWarning)
        with pytest.raises(mp.HolderDiedWarning), lock:
            pytest.fail("the lock was given")
    assert lock.acquire(False), "the exception left the lock taken"


def _acquire_and_end(lock: Any) -> None:
    lock.acquire()


def test_a_lock_that_was_never_released_is_taken_from_a_process_that_ended(
    context: Any, start: Callable[..., Any]
) -> None:
    lock = context.Lock()
    process = start(context, _acquire_and_end, lock)
    process.join(TIME)
    assert process.exitcode == 0
    with pytest.warns(HolderDiedWarning, match=str(process.pid)):
        assert lock.acquire(timeout=SOON)


def _acquire_in_turn(lock: Any, ready: Any, turns: Any) -> None:
    warnings.simplefilter("ignore", HolderDiedWarning)
    ready.release()
    with lock:
        turns.put(os.getpid())


def test_all_who_wait_get_the_lock_of_a_killed_process(context: Any, start: Callable[..., Any]) -> None:
    lock, ready, turns = context.Lock(), context.Semaphore(0), context.Queue()
    ours, theirs = context.Pipe(False)
    holder = start(context, _hold, lock, theirs)
    ours.recv()
    waiters = [start(context, _acquire_in_turn, lock, ready, turns) for _ in range(3)]
    for waiter in waiters:
        assert ready.acquire(timeout=TIME)
        until_it_sleeps(waiter.pid)
    kill(holder)
    assert {turns.get(timeout=SOON) for _ in waiters} == {waiter.pid for waiter in waiters}


def test_a_waiter_that_is_killed_does_not_keep_the_lock_from_others(context: Any, start: Callable[..., Any]) -> None:
    lock, ready, turns = context.Lock(), context.Semaphore(0), context.Queue()
    lock.acquire()
    waiters = [start(context, _acquire_in_turn, lock, ready, turns) for _ in range(2)]
    for waiter in waiters:
        assert ready.acquire(timeout=TIME)
        until_it_sleeps(waiter.pid)
    kill(waiters[0])
    lock.release()
    assert turns.get(timeout=SOON) == waiters[1].pid
    waiters[1].join(TIME)
    assert lock.acquire(timeout=SOON)


# ------------------------------------------------------------------------------------------------ semaphores


def test_a_semaphore_counts() -> None:
    semaphore = mp.Semaphore(2)
    assert semaphore.acquire() and semaphore.acquire()
    assert semaphore.get_value() == 0
    assert not semaphore.acquire(False)
    begin = time.monotonic()
    assert not semaphore.acquire(timeout=0.05)
    assert 0.045 < time.monotonic() - begin < SOON
    for _ in range(3):
        semaphore.release()
    assert semaphore.get_value() == 3
    assert repr(semaphore) == "<Semaphore(value=3)>"


def test_a_bounded_semaphore_has_an_upper_end() -> None:
    semaphore = mp.BoundedSemaphore(1)
    assert repr(semaphore) == "<BoundedSemaphore(value=1, maxvalue=1)>"
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    with semaphore:
        assert semaphore.get_value() == 0
    assert semaphore.get_value() == 1


@pytest.mark.parametrize("kind", [mp.Semaphore, mp.BoundedSemaphore])
@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(-1, ValueError, "-1 permits"), (2**31, OverflowError, "at most 2147483647"), ("2", TypeError, "str")],
)
def test_a_semaphore_of_an_impossible_value_is_refused(
    kind: Callable[[Any], Any], value: object, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        kind(value)


def test_the_permits_of_a_killed_process_come_back(context: Any, start: Callable[..., Any]) -> None:
    gate = context.BoundedSemaphore(1)
    ours, theirs = context.Pipe(False)
    inside = start(context, _hold, gate, theirs)
    ours.recv()
    assert not gate.acquire(False)
    kill(inside)
    assert gate.acquire(timeout=SOON)


def test_permits_that_were_counted_do_not_come_back(context: Any, start: Callable[..., Any]) -> None:
    tickets = context.Semaphore(0)
    tickets.release()
    ours, theirs = context.Pipe(False)
    consumer = start(context, _hold, tickets, theirs)
    ours.recv()
    kill(consumer)
    assert not tickets.acquire(timeout=0.2), "a ticket was used twice"


# ------------------------------------------------------------------------------------------------ a storm


def _be_busy(lock: Any, recursive: Any, gate: Any, condition: Any, event: Any, seed: int) -> None:
    warnings.simplefilter("ignore", HolderDiedWarning)
    choice = random.Random(seed)
    while True:
        match choice.randrange(6):
            case 0:
                with lock:
                    pass
            case 1:
                with recursive, recursive:
                    pass
            case 2:
                with gate:
                    pass
            case 3:
                with condition:
                    condition.notify_all()
            case 4:
                with condition:
                    condition.wait(0.002)
            case 5:
                event.set()
                event.clear()
                event.wait(0.001)


@pytest.mark.filterwarnings("ignore::polyproc.errors.HolderDiedWarning")
def test_nobody_gets_stuck_whoever_is_killed_and_when(start: Callable[..., Any]) -> None:
    context = mp.get_context("fork")
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    choice = random.Random(seed)
    shared = context.Lock(), context.RLock(), context.BoundedSemaphore(2), context.Condition(), context.Event()
    busy = [start(context, _be_busy, *shared, seed + number) for number in range(3)]
    for number in range(150):
        time.sleep(choice.random() * 0.003)
        victim = choice.randrange(len(busy))
        kill(busy[victim])
        for one in shared[:4]:
            assert one.acquire(timeout=SOON), f"{one} is stuck after the death of {busy[victim].pid}"
            one.release()
        busy[victim] = start(context, _be_busy, *shared, seed + 100 + number)
    for process in busy:
        kill(process)
    gate, condition = shared[2], shared[3]
    assert gate.acquire(timeout=SOON) and gate.acquire(timeout=SOON), "a permit was lost"
    until(lambda: condition._sleeping_count.get_value() == 0)
