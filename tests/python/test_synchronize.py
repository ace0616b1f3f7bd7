"""Conditions, events and barriers; signals while waiting, and how all of them travel to other processes."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import TIME, kill, until, until_it_sleeps

import polyproc as mp

#: Within this, whoever waited for a dead process goes on.
SOON = 5.0


class Rang(Exception):
    """Raised by the handler of an alarm."""


@pytest.fixture
def alarm() -> Iterator[Callable[[float], object]]:
    """An alarm that raises in the main thread after some seconds."""

    def ring(*_: object) -> None:
        raise Rang

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------ conditions


def _wait(condition: Any, woken: Any, timeout: float | None = None) -> None:
    with condition:
        woken.put((os.getpid(), condition.wait(timeout)))


def test_a_notification_wakes_as_many_as_it_says(context: Any, start: Callable[..., Any]) -> None:
    condition, woken = context.Condition(), context.Queue()
    processes = [start(context, _wait, condition, woken) for _ in range(3)]
    threads = [threading.Thread(target=_wait, args=(condition, woken)) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: condition._sleeping_count.get_value() == 5)
    assert repr(condition).endswith(", 5)>")
    with condition:
        condition.notify(2)
    assert [woken.get(timeout=SOON)[1] for _ in range(2)] == [True, True]
    assert woken.empty()
    with condition:
        condition.notify_all()
    assert [woken.get(timeout=SOON)[1] for _ in range(3)] == [True] * 3
    for one in [*processes, *threads]:
        one.join(TIME)
    counts = condition._sleeping_count, condition._woken_count, condition._wait_semaphore
    assert [count.get_value() for count in counts] == [0, 0, 0]


@pytest.mark.parametrize("kind", [mp.Lock, mp.RLock])
def test_a_condition_takes_the_lock_it_is_given(kind: Callable[[], Any]) -> None:
    lock = kind()
    condition = mp.Condition(lock)
    with lock:
        assert condition.wait(0) is False
        assert condition.wait(0.01) is False
        assert lock._semlock._is_mine()
    assert lock.acquire(False)


def test_a_recursive_lock_is_given_up_wholly_and_taken_back_as_often() -> None:
    condition = mp.Condition()
    got: list[bool] = []

    def notify() -> None:
        with condition:
            condition.notify()

    with condition, condition:
        thread = threading.Thread(target=notify)
        thread.start()
        got.append(condition.wait(TIME))
        assert condition._lock._semlock._count() == 2
    thread.join(TIME)
    assert got == [True]


def test_a_condition_wants_its_lock_held() -> None:
    condition = mp.Condition()
    with pytest.raises(AssertionError, match=r"must acquire\(\) condition before using wait\(\)"):
        condition.wait(0)
    with pytest.raises(AssertionError, match="lock is not owned"):
        condition.notify()
    with condition, pytest.raises(TypeError, match="timeout must be a number"):
        condition.wait("soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs a Lock or RLock"):
        mp.Condition(threading.Lock())


def test_wait_for_returns_what_the_predicate_says() -> None:
    condition = mp.Condition()
    with condition:
        assert condition.wait_for(lambda: 3) == 3
        begin = time.monotonic()
        assert condition.wait_for(lambda: 0, timeout=0.05) == 0
        assert 0.045 < time.monotonic() - begin < SOON


def test_a_killed_waiter_does_not_swallow_the_notification(context: Any, start: Callable[..., Any]) -> None:
    condition, woken = context.Condition(), context.Queue()
    dead = start(context, _wait, condition, woken)
    until(lambda: condition._sleeping_count.get_value() == 1)
    living = start(context, _wait, condition, woken)
    until(lambda: condition._sleeping_count.get_value() == 2)
    kill(dead)
    until(lambda: condition._sleeping_count.get_value() == 1)
    with condition:
        condition.notify()
    assert woken.get(timeout=SOON) == (living.pid, True)


# ------------------------------------------------------------------------------------------------ events


def _wait_for_event(event: Any, answers: Any) -> None:
    answers.put((os.getpid(), event.wait()))


def test_an_event_wakes_all_who_wait(context: Any, start: Callable[..., Any]) -> None:
    event, answers = context.Event(), context.Queue()
    assert not event.is_set() and event.wait(0) is False and event.wait(0.01) is False
    assert repr(event).endswith(" unset>")
    waiters = [start(context, _wait_for_event, event, answers) for _ in range(3)]
    event.set()
    assert {answers.get(timeout=SOON) for _ in waiters} == {(waiter.pid, True) for waiter in waiters}
    assert event.is_set() and event.wait() is True
    assert repr(event).endswith(" set>")
    event.clear()
    assert not event.is_set()


def test_an_event_that_is_set_and_cleared_at_once_wakes_who_waited() -> None:
    event = mp.Event()
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(event.wait(TIME)))
    thread.start()
    while not woken:
        event.set()
        event.clear()
    thread.join(TIME)
    assert woken == [True]


def test_setting_an_event_does_not_wait_for_a_killed_waiter(context: Any, start: Callable[..., Any]) -> None:
    event, answers = context.Event(), context.Queue()
    dead, living = (start(context, _wait_for_event, event, answers) for _ in range(2))
    until_it_sleeps(dead.pid)
    kill(dead)
    begin = time.monotonic()
    event.set()
    assert time.monotonic() - begin < SOON
    assert answers.get(timeout=SOON) == (living.pid, True)


def test_an_event_may_be_set_in_a_signal_handler() -> None:
    event = mp.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: event.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert event.wait(TIME)
    finally:
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------ barriers


def _pass(barrier: Any, answers: Any) -> None:
    try:
        answers.put(barrier.wait())
    except threading.BrokenBarrierError:
        answers.put("broken")


def test_a_barrier_lets_all_go_on_together(context: Any, start: Callable[..., Any]) -> None:
    barrier, answers = context.Barrier(3), context.Queue()
    assert isinstance(barrier, threading.Barrier)
    for _ in range(2):
        start(context, _pass, barrier, answers)
    until(lambda: barrier.n_waiting == 2)
    places = [barrier.wait(TIME), answers.get(timeout=SOON), answers.get(timeout=SOON)]
    assert sorted(places) == [0, 1, 2]
    until(lambda: barrier.n_waiting == 0)
    assert (barrier.parties, barrier.broken) == (3, False)


def test_the_action_is_called_once_before_anybody_goes_on() -> None:
    calls: list[int] = []
    barrier = mp.Barrier(2, action=lambda: calls.append(len(calls)))
    seen: list[int] = []

    def party() -> None:
        for _ in range(50):
            barrier.wait(TIME)
            seen.append(len(calls))

    threads = [threading.Thread(target=party) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIME)
    assert calls == list(range(50))
    assert min(seen) == 1


def test_an_action_that_raises_breaks_the_barrier() -> None:
    barrier = mp.Barrier(1, action=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        barrier.wait()
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken


def test_a_timeout_breaks_the_barrier() -> None:
    barrier = mp.Barrier(2, timeout=0.01)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    assert barrier.broken


@pytest.mark.parametrize("act", ["abort", "reset"])
def test_who_waits_is_sent_away(act: str, context: Any, start: Callable[..., Any]) -> None:
    barrier, answers = context.Barrier(2), context.Queue()
    start(context, _pass, barrier, answers)
    until(lambda: barrier.n_waiting == 1)
    getattr(barrier, act)()
    assert answers.get(timeout=SOON) == "broken"
    assert barrier.broken == (act == "abort")


def test_a_killed_party_breaks_the_barrier(context: Any, start: Callable[..., Any]) -> None:
    barrier, answers = context.Barrier(3), context.Queue()
    dead, _ = (start(context, _pass, barrier, answers) for _ in range(2))
    until(lambda: barrier.n_waiting == 2)
    kill(dead)
    assert answers.get(timeout=SOON) == "broken"
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(TIME)


@pytest.mark.parametrize(("parties", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError)])
def test_a_barrier_of_an_impossible_size_is_refused(parties: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="parties"):
        mp.Barrier(parties)


# ------------------------------------------------------------------------------------------------ signals


def _acquired(lock: Any) -> Any:
    lock.acquire()
    return lock


@pytest.mark.parametrize(
    "waits",
    [
        lambda: _acquired(mp.Lock()).acquire,
        lambda: mp.Semaphore(0).acquire,
        lambda: lambda lock=_acquired(mp.Lock()): lock.acquire(timeout=TIME),
        lambda: mp.Event().wait,
        lambda: _acquired(mp.Condition()).wait,
        lambda: _acquired(mp.Condition(mp.Lock())).wait,
        lambda: mp.Barrier(2).wait,
    ],
    ids=["Lock", "Semaphore", "timeout", "Event", "Condition", "Condition(Lock)", "Barrier"],
)
def test_a_signal_handler_that_raises_ends_the_wait(waits: Callable[[], Any], alarm: Callable[[float], object]) -> None:
    wait = waits()
    begin = time.monotonic()
    alarm(0.05)
    with pytest.raises(Rang):
        wait()
    assert time.monotonic() - begin < SOON


def test_a_signal_before_the_wait_falls_asleep_is_noticed(alarm: Callable[[float], object]) -> None:
    event = mp.Event()
    for _ in range(200):
        alarm(0.0001)
        with pytest.raises(Rang):
            event.wait(TIME)


def test_a_signal_handler_that_returns_does_not_prolong_the_wait() -> None:
    rings: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rings.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        begin = time.monotonic()
        assert not mp.Event().wait(0.2)
        assert 0.19 < time.monotonic() - begin < SOON
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(rings) > 3


def test_a_condition_goes_on_after_a_wait_that_was_interrupted(alarm: Callable[[float], object]) -> None:
    condition, woken = mp.Condition(), mp.SimpleQueue()
    with condition:
        alarm(0.05)
        with pytest.raises(Rang):
            condition.wait()
        assert condition._lock._semlock._is_mine()
    assert condition._sleeping_count.get_value() == 0
    thread = threading.Thread(target=_wait, args=(condition, woken))
    thread.start()
    until(lambda: condition._sleeping_count.get_value() == 1)
    with condition:
        condition.notify()
    thread.join(TIME)
    assert woken.get()[1] is True


def test_a_barrier_goes_on_after_a_wait_that_was_interrupted(alarm: Callable[[float], object]) -> None:
    barrier = mp.Barrier(2)
    alarm(0.05)
    with pytest.raises(Rang):
        barrier.wait()
    assert (barrier.n_waiting, barrier.broken) == (0, False)
    thread = threading.Thread(target=barrier.wait, args=(TIME,))
    thread.start()
    assert barrier.wait(TIME) in (0, 1)
    thread.join(TIME)


# ------------------------------------------------------------------------------------------------ travelling


MAKERS: list[Callable[[Any], Any]] = [
    lambda context: context.Lock(),
    lambda context: context.RLock(),
    lambda context: context.Semaphore(1),
    lambda context: context.BoundedSemaphore(1),
    lambda context: context.Condition(),
    lambda context: context.Event(),
    lambda context: context.Barrier(1),
]


@pytest.mark.parametrize("make", MAKERS)
def test_outside_of_messages_and_births_nothing_is_pickled(make: Callable[[Any], Any]) -> None:
    thing = make(mp)
    with pytest.raises(RuntimeError, match=f"^{type(thing).__name__} objects should only be shared between processes through inheritance"):
        pickle.dumps(thing)


def _use_what_comes(inbox: Any, answers: Any) -> None:
    event, barrier, condition, lock, semaphore = inbox.get(timeout=TIME)
    answers.put((lock.acquire(False), semaphore.acquire(False)))
    with condition:
        condition.notify()
    event.wait(TIME)
    answers.put(barrier.wait(TIME))


def test_they_can_be_sent_to_a_process_that_runs(context: Any, start: Callable[..., Any]) -> None:
    inbox, answers = context.Queue(), context.Queue()
    start(context, _use_what_comes, inbox, answers)
    event, barrier, condition, lock = context.Event(), context.Barrier(2), context.Condition(), context.Lock()
    semaphore = context.Semaphore(1)
    with lock, condition:
        inbox.put((event, barrier, condition, lock, semaphore))
        assert answers.get(timeout=SOON) == (False, True)
        assert condition.wait(TIME)
    assert semaphore.get_value() == 0
    event.set()
    assert {barrier.wait(TIME), answers.get(timeout=SOON)} == {0, 1}


def test_an_object_lives_in_its_message_when_its_sender_has_dropped_it() -> None:
    queue = mp.Queue()
    semaphore = mp.Semaphore(7)
    queue.put(semaphore)
    del semaphore
    gc.collect()
    assert queue.get().get_value() == 7


def _wait_then_release(go: Any, things: list[Any]) -> None:
    go.wait(TIME)
    for thing in things:
        with thing:
            pass


def test_a_child_keeps_what_its_parent_has_dropped(context: Any, start: Callable[..., Any]) -> None:
    go, things = context.Event(), [context.Lock(), context.RLock(), context.Semaphore(1), context.Condition()]
    process = start(context, _wait_then_release, go, things)
    process._args = ()
    things.clear()
    del things
    gc.collect()
    others = [mp.Lock() for _ in range(10)]
    for other in others:
        other.acquire()
    go.set()
    process.join(TIME)
    assert process.exitcode == 0


def _say_who_holds(lock: Any, recursive: Any, answers: Any) -> None:
    answers.put((repr(lock), repr(recursive), lock._semlock._count(), recursive._semlock._is_mine()))


def test_objects_of_one_start_method_serve_the_children_of_another(start: Callable[..., Any]) -> None:
    lock, answers = mp.get_context("fork").Lock(), mp.get_context("fork").Queue()
    with lock:
        start(mp.get_context("spawn"), _say_who_holds, lock, mp.get_context("forkserver").RLock(), answers)
        assert answers.get(timeout=TIME)[0] == "<Lock(owner=SomeOtherProcess)>"
