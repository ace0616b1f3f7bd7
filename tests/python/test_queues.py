"""Queues: what is put arrives, in order, whole, also when the process that put it is gone."""

from __future__ import annotations

import os
import pickle
import queue as standard
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

import polyproc as mp
from polyproc.connection import wait
from polyproc.queues import Queue

TIME = 20.0


@pytest.fixture(params=["fork", "spawn"])
def context(request: pytest.FixtureRequest) -> Any:
    return mp.get_context(request.param)


# ------------------------------------------------------------------------------------------------ order and bounds


def test_items_come_out_in_the_order_they_went_in() -> None:
    queue = mp.Queue()
    for number in range(1000):
        queue.put(number)
    assert queue.qsize() == 1000
    assert [queue.get() for _ in range(1000)] == list(range(1000))
    assert queue.empty()


def test_a_full_queue_refuses_at_once_or_in_time() -> None:
    queue = mp.Queue(2)
    queue.put("a")
    queue.put("b")
    assert queue.full()
    with pytest.raises(standard.Full):
        queue.put_nowait("c")
    with pytest.raises(standard.Full):
        queue.put("c", block=False)
    begin = time.monotonic()
    with pytest.raises(standard.Full):
        queue.put("c", timeout=0.1)
    assert 0.09 < time.monotonic() - begin < 5
    assert queue.get() == "a"
    queue.put_nowait("c")
    assert [queue.get(), queue.get()] == ["b", "c"]


def test_an_empty_queue_gives_up_at_once_or_in_time() -> None:
    queue = mp.Queue()
    with pytest.raises(standard.Empty):
        queue.get_nowait()
    with pytest.raises(standard.Empty):
        queue.get(False)
    with pytest.raises(standard.Empty):
        queue.get(timeout=-1)
    begin = time.monotonic()
    with pytest.raises(standard.Empty):
        queue.get(timeout=0.1)
    assert 0.09 < time.monotonic() - begin < 5


def test_a_waiting_put_goes_on_when_there_is_room() -> None:
    queue = mp.Queue(1)
    queue.put(1)
    thread = threading.Thread(target=queue.put, args=(2,))
    thread.start()
    assert queue.get(timeout=TIME) == 1
    assert queue.get(timeout=TIME) == 2
    thread.join(TIME)
    assert not thread.is_alive()


def test_a_waiting_get_lets_other_threads_run() -> None:
    queue = mp.Queue()
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(queue.get()))
    thread.start()
    queue.put("through")
    thread.join(TIME)
    assert got == ["through"]


# ------------------------------------------------------------------------------------------------ between processes


def produce(queue: Any, name: int, count: int) -> None:
    for number in range(count):
        queue.put((name, number))


def test_items_of_several_processes_each_arrive_once_and_in_order(context: Any, start: Callable[..., Any]) -> None:
    queue = context.Queue()
    for name in range(3):
        start(context, produce, queue, name, 200)
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for _ in range(600):
        name, number = queue.get(timeout=TIME)
        seen[name].append(number)
    assert all(numbers == list(range(200)) for numbers in seen.values())
    assert queue.empty()


def put_and_die(queue: Any) -> None:
    for number in range(100):
        queue.put(number)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_put_accepted_arrives_though_the_process_was_killed(context: Any, start: Callable[..., Any]) -> None:
    queue = context.Queue()
    process = start(context, put_and_die, queue)
    process.join(TIME)
    assert process.exitcode == -signal.SIGKILL
    assert [queue.get(timeout=TIME) for _ in range(100)] == list(range(100))


def put_much(queue: Any) -> None:
    for number in range(10):
        queue.put((number, bytes([number]) * 1_000_000))


def test_a_process_can_be_joined_before_its_items_are_read(context: Any, start: Callable[..., Any]) -> None:
    queue = context.Queue()
    process = start(context, put_much, queue)
    process.join(TIME)
    assert process.exitcode == 0
    for number in range(10):
        assert queue.get(timeout=TIME) == (number, bytes([number]) * 1_000_000)


def wait_for_an_item(queue: Any) -> None:
    queue.get()


def test_a_killed_reader_does_not_keep_others_from_reading(start: Callable[..., Any]) -> None:
    context = mp.get_context("fork")
    queue, began = context.Queue(), context.Queue()

    def reader() -> None:
        began.put(True)
        queue.get()

    process = start(context, reader)
    assert began.get(timeout=TIME)
    process.kill()
    process.join(TIME)
    queue.put("item")
    assert queue.get(timeout=TIME) == "item"


def make_a_queue_and_send_it(outer: Any) -> None:
    inner = mp.Queue()
    inner.put("from a queue that was made later")
    outer.put(inner)


def test_a_queue_can_be_sent_to_a_process_that_runs_already(context: Any, start: Callable[..., Any]) -> None:
    outer = context.Queue()
    process = start(context, make_a_queue_and_send_it, outer)
    inner = outer.get(timeout=TIME)
    process.join(TIME)
    assert inner.get(timeout=TIME) == "from a queue that was made later"


def finish(queue: Any) -> None:
    while queue.get() is not None:
        queue.task_done()


def test_join_of_a_joinable_queue_waits_until_all_is_done(context: Any, start: Callable[..., Any]) -> None:
    queue = context.JoinableQueue()
    processes = [start(context, finish, queue) for _ in range(2)]
    for number in range(50):
        queue.put(number)
    queue.join()
    assert queue.empty()
    for _ in processes:
        queue.put(None)


def test_task_done_more_often_than_put_is_an_error() -> None:
    queue = mp.JoinableQueue()
    queue.put(1)
    queue.task_done()
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        queue.task_done()


# ------------------------------------------------------------------------------------------------ what is carried


def shared_twice() -> object:
    inner = [1]
    return [inner, inner]


@pytest.mark.parametrize(
    "item",
    [
        None, 1, 2**100, 1.5, "text", "\ud800", "é" * 50_000, b"bytes", b"x" * 5_000, b"x" * 300_000,
        bytearray(b"short"), bytearray(b"x" * 300_000), (1, "a"), [1] * 100_000, {"id": 1, "name": "abc", "value": 1.5},
        {1, 2}, 1j, ValueError("kept"), len, range(5), {"nested": [b"x" * 100_000, {"deep": (None,)}]},
    ],
    ids=lambda item: repr(item)[:25],
)  # fmt: skip
def test_an_item_arrives_with_its_type_and_value(item: object) -> None:
    queue = mp.Queue()
    queue.put(item)
    got = queue.get()
    assert type(got) is type(item)
    if isinstance(item, ValueError):
        assert got.args == item.args
    else:
        assert got == item


def test_one_object_in_two_places_arrives_as_one_object() -> None:
    queue = mp.Queue()
    queue.put(shared_twice())
    first, second = queue.get()
    assert first is second


def test_an_item_is_as_it_was_when_it_was_put() -> None:
    queue = mp.Queue()
    item = [1, 2]
    queue.put(item)
    item.append(3)
    assert queue.get() == [1, 2]


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle this on purpose")


@pytest.mark.parametrize("make", [mp.Queue, mp.SimpleQueue, mp.JoinableQueue])
def test_put_of_what_cannot_be_pickled_raises_and_names_it(make: Callable[[], Any]) -> None:
    queue = make()
    queue.put(1)
    with pytest.raises(TypeError, match="on purpose") as caught:
        queue.put(Unpicklable())
    assert "Unpicklable" in "".join(caught.value.__notes__)
    queue.put(2)
    assert [queue.get(), queue.get()] == [1, 2]


def test_a_subclass_with_the_feeder_hook_gets_what_cannot_be_pickled() -> None:
    heard: list[tuple[str, str]] = []

    class Listening(Queue[Any]):
        def _on_queue_feeder_error(self, e: BaseException, obj: object) -> None:
            heard.append((type(e).__name__, type(obj).__name__))

    queue = Listening(ctx=mp.get_context())
    queue.put(Unpicklable())
    queue.put(True)
    assert queue.get(timeout=TIME) is True
    assert heard == [("TypeError", "Unpicklable")]


def explode(text: str) -> None:
    raise ValueError(text)


class Bomb:
    def __reduce__(self) -> Any:
        return explode, ("cannot be rebuilt",)


def test_an_item_that_cannot_be_rebuilt_fails_alone() -> None:
    queue = mp.Queue()
    for item in (1, Bomb(), 2):
        queue.put(item)
    assert queue.get() == 1
    with pytest.raises(ValueError, match="cannot be rebuilt"):
        queue.get()
    assert queue.get() == 2


def test_lambdas_travel_where_cloudpickle_is_installed() -> None:
    pytest.importorskip("cloudpickle")
    queue = mp.Queue()
    offset = 3
    queue.put(lambda number: number + offset)
    assert queue.get()(4) == 7


class Sender:
    """Puts into a queue while it is being pickled for that queue."""

    queue: Any = None

    def __reduce__(self) -> Any:
        Sender.queue.put("from within")
        return str, ("outer",)


def test_a_reducer_may_put_into_the_queue_itself() -> None:
    Sender.queue = queue = mp.Queue()
    queue.put(Sender())
    assert [queue.get(), queue.get()] == ["from within", "outer"]


# ------------------------------------------------------------------------------------------------ closing and misuse


@pytest.mark.parametrize("make", [mp.Queue, mp.JoinableQueue])
def test_a_closed_queue_says_so(make: Callable[[], Any]) -> None:
    queue = make()
    assert queue.empty()
    queue.put(1)
    queue.close()
    queue.close()
    queue.join_thread()
    with pytest.raises(ValueError, match="is closed"):
        queue.put(2)
    with pytest.raises(ValueError, match="is closed"):
        queue.get()
    with pytest.raises(OSError, match="is closed"):
        queue.empty()


def test_join_thread_wants_the_queue_closed_first() -> None:
    queue = mp.Queue()
    with pytest.raises(AssertionError, match="not closed"):
        queue.join_thread()
    queue.cancel_join_thread()


def test_a_closed_simple_queue_says_so() -> None:
    queue = mp.SimpleQueue()
    queue.put(1)
    queue.close()
    queue.close()
    for call in (queue.get, queue.empty, lambda: queue.put(1)):
        with pytest.raises(OSError, match="is closed"):
            call()


@pytest.mark.parametrize(
    ("maxsize", "error", "words"),
    [
        ("3", TypeError, "maxsize must be an integer, not str"),
        (1.5, TypeError, "maxsize must be an integer, not float"),
        (2**31, ValueError, "maxsize must be at most 2147483647"),
        (2**80, ValueError, "maxsize must be at most 2147483647"),
    ],
)
def test_a_wrong_maxsize_is_named(maxsize: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        mp.Queue(maxsize)


def test_a_maxsize_of_zero_or_less_is_no_bound() -> None:
    for maxsize in (0, -1, -(2**40)):
        queue = mp.Queue(maxsize)
        for number in range(100):
            queue.put_nowait(number)
        assert not queue.full()


@pytest.mark.parametrize(
    ("timeout", "error", "words"), [("1", TypeError, "not str"), ([], TypeError, "not list"), (float("nan"), ValueError, "nan")]
)
def test_a_timeout_that_is_not_a_number_is_named(timeout: Any, error: type[Exception], words: str) -> None:
    queue = mp.Queue()
    with pytest.raises(error, match=words):
        queue.get(timeout=timeout)
    with pytest.raises(error, match=words):
        queue.put(1, timeout=timeout)
    assert queue.empty()


def test_a_queue_is_pickled_only_for_another_process() -> None:
    for queue in (mp.Queue(), mp.JoinableQueue(), mp.SimpleQueue()):
        with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
            pickle.dumps(queue)


def test_a_queue_that_was_not_initialised_says_so() -> None:
    class Forgetful(Queue[Any]):
        def __init__(self) -> None: ...

    with pytest.raises(RuntimeError, match="not initialised"):
        Forgetful().put(1)


# ------------------------------------------------------------------------------------------------ waiting and executors


def test_the_reader_of_a_queue_is_ready_while_there_is_an_item() -> None:
    queue = mp.Queue()
    assert wait([queue._reader], timeout=0) == []
    assert not queue._reader.poll()
    queue.put(1)
    assert queue._reader.poll()
    assert wait([queue._reader], timeout=TIME) == [queue._reader]
    assert queue._reader.recv() == 1
    assert wait([queue._reader], timeout=0) == []
    assert not queue._reader.poll(0.01)


def put_one(queue: Any) -> None:
    queue.put("wake")


def test_the_reader_of_a_queue_wakes_who_waits_for_it(start: Callable[..., Any]) -> None:
    context = mp.get_context("fork")
    queue = context.Queue()
    assert wait([queue._reader], timeout=0) == []
    start(context, put_one, queue)
    assert wait([queue._reader], timeout=TIME) == [queue._reader]
    assert queue.get(timeout=TIME) == "wake"


def test_what_was_put_is_ready_no_later_than_the_end_of_who_put_it() -> None:
    queue: mp.SimpleQueue[int] = mp.get_context("fork").SimpleQueue()
    for number in range(100):
        process = mp.get_context("fork").Process(target=queue.put, args=(number,))
        process.start()
        assert queue._reader in wait([process.sentinel, queue._reader], TIME)
        assert queue.get() == number
        process.join(TIME)


def test_a_signal_handler_that_raises_ends_a_wait() -> None:
    def ring(number: int, frame: object) -> None:
        raise InterruptedError("rung")

    queue = mp.Queue()
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedError, match="rung"):
            queue.get(timeout=TIME)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_that_returns_does_not_end_a_wait() -> None:
    rung: list[int] = []
    queue = mp.Queue()
    before = signal.signal(signal.SIGALRM, lambda number, frame: (rung.append(number), queue.put("rung"))[0])
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert queue.get(timeout=TIME) == "rung"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rung


def square(number: int) -> int:
    return number * number


def test_the_standard_executor_runs_on_these_queues(context: Any) -> None:
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(square, range(20))) == [number * number for number in range(20)]
        with pytest.raises(TypeError, match="on purpose"):
            executor.submit(square, Unpicklable()).result(TIME)  # type: ignore[arg-type]
        assert executor.submit(square, 5).result(TIME) == 25
