"""Values and arrays: one memory for all processes, which nobody else gets while somebody uses it."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import polyproc as mp
from polyproc import heap, sharedctypes
from polyproc._polyproc import Memory

TIME = 20.0


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]


@pytest.fixture
def fresh_heap() -> Iterator[heap.Heap]:
    before = heap.BufferWrapper._heap
    heap.BufferWrapper._heap = heap.Heap()
    yield heap.BufferWrapper._heap
    heap.BufferWrapper._heap = before


# ------------------------------------------------------------------------------------------------ sharing


def _double(value: Any, array: Any, raw: Any, raw_array: Any, text: Any, point: Any) -> None:
    with value:
        value.value *= 2
    for index in range(len(array)):
        array[index] *= 2
    raw.value *= 2
    raw_array[:] = [2 * item for item in raw_array]
    text.value = text.value * 2
    point.x *= 2


def test_what_a_child_writes_its_parent_reads(context: Any, start: Callable[..., Any]) -> None:
    value, array = context.Value("i", 7), context.Array("d", [1.5, 2.5])
    raw, raw_array = context.RawValue("q", 2**40), context.RawArray("h", range(3))
    text, point = context.Array("c", 20), context.Value(Point, 1.0, 2.0)
    text.value = b"ab"
    process = start(context, _double, value, array, raw, raw_array, text, point)
    process.join(TIME)
    assert process.exitcode == 0
    assert (value.value, array[:], raw.value, raw_array[:]) == (14, [3.0, 5.0], 2**41, [0, 2, 4])
    assert (text.value, point.x, point.y) == (b"abab", 2.0, 2.0)


def _add(inbox: Any, times: int) -> None:
    counter, array = inbox.get(timeout=TIME)
    for _ in range(times):
        with counter.get_lock():
            counter.value += 1
    array[len(array) - 1] = 1


def test_values_can_be_sent_to_processes_that_run(context: Any, start: Callable[..., Any]) -> None:
    inbox = context.Queue()
    processes = [start(context, _add, inbox, 500) for _ in range(2)]
    counter, array = context.Value("l", 0), context.RawArray("b", 100_000)
    for _ in processes:
        inbox.put((counter, array))
    for process in processes:
        process.join(TIME)
    assert (counter.value, array[99_999]) == (1000, 1)


def test_a_message_keeps_the_value_that_its_sender_has_dropped() -> None:
    queue = mp.Queue()
    queue.put(mp.Value("i", 5))
    gc.collect()
    later = [mp.RawValue("i", 99) for _ in range(100)]
    assert queue.get().value == 5
    del later


def test_new_memory_is_zero_also_where_something_lay_before() -> None:
    for _ in range(3):
        array = mp.RawArray("B", 10_000)
        assert not any(array)
        array[:] = b"\xff" * 10_000
        del array
        gc.collect()


def test_locks_are_had_as_asked_for() -> None:
    lock = mp.Lock()
    assert mp.Value("i", lock=lock).get_lock() is lock
    assert type(mp.Value("i", lock=False)) is ctypes.c_int
    assert isinstance(mp.Array("i", 3).get_lock(), mp.synchronize.RLock)
    with pytest.raises(AttributeError, match="acquire"):
        mp.Value("i", lock="no lock")


def test_copies_and_wrappers() -> None:
    point = Point(1, 2)
    copied = sharedctypes.copy(point)
    point.x = 9
    assert (copied.x, copied.y) == (1, 2)
    wrapped: Any = sharedctypes.synchronized(copied)
    wrapped.y = 5
    assert copied.y == 5
    assert repr(wrapped).startswith("<SynchronizedPoint wrapper for")


def test_outside_of_messages_and_births_nothing_is_pickled() -> None:
    for thing in (mp.Value("i"), mp.Array("i", 3), mp.RawValue("i"), mp.RawArray("i", 3)):
        with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
            mp.reducer.ForkingPickler.dumps(thing)


def test_a_plain_ctypes_object_is_still_sent_by_value() -> None:
    shared, queue = mp.RawValue("i", 1), mp.Queue()
    queue.put(ctypes.c_int(3))
    got = queue.get()
    assert (got.value, shared.value) == (3, 1)
    assert pickle.loads(mp.reducer.ForkingPickler.dumps(ctypes.c_int(4))).value == 4


# ------------------------------------------------------------------------------------------------ a process that dies


def _write_and_die(value: Any) -> None:
    value.acquire()
    value.value = 3
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_value_of_a_killed_process_can_be_used_again(context: Any, start: Callable[..., Any]) -> None:
    value = context.Value("i", 0)
    process = start(context, _write_and_die, value)
    process.join(TIME)
    with pytest.warns(mp.HolderDiedWarning, match=str(process.pid)):
        assert value.value == 3
    value.value = 4
    assert value.value == 4


# ------------------------------------------------------------------------------------------------ what is dropped


def _read_when_told(go: Any, value: Any, answers: Any) -> None:
    go.wait(TIME)
    answers.put(value.value)


def test_a_child_keeps_the_memory_of_a_value_that_its_parent_has_dropped(
    context: Any, start: Callable[..., Any]
) -> None:
    go, answers, value = context.Event(), context.Queue(), context.RawValue("i", 5)
    process = start(context, _read_when_told, go, value, answers)
    process._args = ()
    del value
    gc.collect()
    others = [context.RawValue("i", 99) for _ in range(2000)]
    go.set()
    assert answers.get(timeout=TIME) == 5
    del others


def test_memory_that_only_this_process_knew_is_used_again(fresh_heap: heap.Heap) -> None:
    for _ in range(10_000):
        mp.RawValue("q", 1)
    assert len(fresh_heap._arenas) == 1  # type: ignore[attr-defined]


def test_memory_that_a_child_knew_is_let_go_when_all_of_its_arena_is_dropped(fresh_heap: heap.Heap) -> None:
    values = [mp.RawValue("q", 1) for _ in range(10)]
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    arena = fresh_heap._arenas[0]  # type: ignore[attr-defined]
    later = mp.RawValue("q", 2)
    del values[5:]
    assert fresh_heap._arenas == [arena]  # type: ignore[attr-defined]
    del values[:], later
    assert fresh_heap._arenas == []  # type: ignore[attr-defined]
    assert not fresh_heap._len_to_seq  # type: ignore[attr-defined]


def test_memory_is_a_writable_buffer_of_zeros() -> None:
    memory = Memory(100)
    view = memoryview(memory)
    assert (len(memory), view.nbytes, view.readonly) == (100, 100, False)
    assert bytes(view) == bytes(100)


def test_an_array_beyond_the_budget_is_refused_in_words() -> None:
    with pytest.raises(OSError, match="budget|too large"):
        mp.RawArray("b", 2**45)
