"""Subclasses of the queues that rely on how the standard library's queues work inside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Full
from typing import Any

import pytest
from conftest import TIME

import polyproc as mp
from polyproc import _queue_variants as variants
from polyproc import queues


class Refusing:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise ValueError("not me")


class Noting(queues.Queue[Any]):
    """Overrides the hook for what cannot be pickled, as concurrent.futures does."""

    def __init__(self, maxsize: int = 0, *, ctx: Any) -> None:
        super().__init__(maxsize, ctx=ctx)
        self.refused: list[tuple[BaseException, object, str]] = []

    def _on_queue_feeder_error(self, e: BaseException, obj: object) -> None:
        self.refused.append((e, obj, threading.current_thread().name))


class OwnPickling(queues.Queue[Any]):
    """Pickles what it likes, as loky's does: here more than was put."""

    @staticmethod
    def _feed(buffer: Any, notempty: Any, send_bytes: Any, writelock: Any, reader_close: Any, writer_close: Any, *rest: Any) -> None:
        from multiprocessing.reduction import ForkingPickler

        while True:
            with notempty:
                while not buffer:
                    notempty.wait()
                item = buffer.popleft()
            if item is queues._sentinel:
                writer_close()
                return
            with writelock:
                send_bytes(ForkingPickler.dumps((item, "by its own pickler")))

    def _start_thread(self) -> None:
        feeder = threading.Thread(
            target=self._feed,
            args=(self._buffer, self._notempty, self._send_bytes, self._wlock, self._reader.close, self._writer.close),  # type: ignore[attr-defined]
            daemon=True,
        )
        feeder.start()
        self._thread = feeder


class OwnState(queues.SimpleQueue[Any]):
    """Names the parts of the standard library's SimpleQueue."""

    def __getstate__(self) -> Any:
        return self._reader, self._writer, self._rlock, self._wlock  # type: ignore[attr-defined]

    def __setstate__(self, state: Any) -> None:
        self._reader, self._writer, self._rlock, self._wlock = state


def echo(requests: Any, answers: Any, count: int) -> None:
    for _ in range(count):
        answers.put(requests.get(timeout=TIME) if isinstance(requests, queues.Queue) else requests.get())


def test_what_cannot_be_pickled_goes_to_the_hook_in_the_feeder_thread() -> None:
    queue = Noting(ctx=mp.get_context())
    unpicklable = Refusing()
    queue.put(unpicklable)
    queue.put("next")
    assert queue.get(timeout=TIME) == "next"
    [(error, obj, thread)] = queue.refused
    assert isinstance(error, ValueError) and obj is unpicklable and thread == "QueueFeederThread"
    queue.close()
    queue.join_thread()


class Plain(queues.Queue[Any]):
    @staticmethod
    def _on_queue_feeder_error(e: BaseException, obj: object) -> None:
        raise AssertionError(f"{obj!r} was refused: {e!r}")


def test_the_feeder_ends_with_its_queue() -> None:
    before = threading.enumerate()
    queue = Plain(ctx=mp.get_context())
    queue.put(1)
    started = [thread for thread in threading.enumerate() if thread not in before]
    [feeder] = [thread for thread in started if thread.name == "QueueFeederThread"]
    del queue
    feeder.join(TIME)
    assert not feeder.is_alive()


def test_put_does_not_wait_for_a_hook_that_wants_a_lock_of_the_caller() -> None:
    lock, entered = threading.Lock(), threading.Event()

    class Locking(queues.Queue[Any]):
        def _on_queue_feeder_error(self, e: BaseException, obj: object) -> None:
            entered.set()
            with lock:
                pass

    queue = Locking(ctx=mp.get_context())
    with lock:
        queue.put(Refusing())
        assert entered.wait(TIME)
        queue.put("behind it")
    assert queue.get(timeout=TIME) == "behind it"
    queue.close()
    queue.join_thread()


def test_a_fed_queue_keeps_its_bound_and_counts_what_is_not_sent_yet() -> None:
    queue = Noting(2, ctx=mp.get_context())
    queue.put(1)
    queue.put(2)
    assert queue.qsize() == 2 and queue.full()
    with pytest.raises(Full):
        queue.put(3, timeout=0.01)
    with pytest.raises(Full):
        queue.put_nowait(3)
    assert queue.get(timeout=TIME) == 1
    assert not queue.full()
    queue.put(Refusing())
    queue.put(4, timeout=TIME)  # the room of what was refused is free again
    assert [queue.get(timeout=TIME), queue.get(timeout=TIME)] == [2, 4]
    assert queue.qsize() == 0 and queue.empty()
    queue.close()
    with pytest.raises(ValueError, match="is closed"):
        queue.put(5)
    queue.join_thread()


def test_closing_sends_what_waits(context: Any, start: Callable[..., Any]) -> None:
    requests, answers = Noting(ctx=context), context.Queue()
    child = start(context, echo, requests, answers, 200)
    for number in range(200):
        requests.put(number)
    requests.close()
    requests.join_thread()
    assert [answers.get(timeout=TIME) for _ in range(200)] == list(range(200))
    child.join(TIME)


def fill_and_end(queue: Any) -> None:
    for number in range(100):
        queue.put(number)


def test_a_child_that_ends_has_sent_what_it_put(context: Any, start: Callable[..., Any]) -> None:
    queue = Noting(ctx=context)
    child = start(context, fill_and_end, queue)
    assert [queue.get(timeout=TIME) for _ in range(100)] == list(range(100))
    child.join(TIME)
    assert child.exitcode == 0


def test_a_queue_that_feeds_itself_runs_on_the_standard_librarys(context: Any, start: Callable[..., Any]) -> None:
    requests, answers = OwnPickling(ctx=context), context.Queue()
    assert isinstance(requests, queues.Queue)
    child = start(context, echo, requests, answers, 2)
    requests.put("a")
    requests.put("b")
    assert [answers.get(timeout=TIME)[0] for _ in range(2)] == ["a", "b"]
    child.join(TIME)
    requests.close()


def test_a_simple_queue_that_names_its_parts_runs_on_the_standard_librarys(context: Any, start: Callable[..., Any]) -> None:
    requests, answers = OwnState(ctx=context), OwnState(ctx=context)
    child = start(context, echo, requests, answers, 2)
    requests.put([1])
    requests.put([2])
    assert [answers.get(), answers.get()] == [[1], [2]]
    child.join(TIME)
    requests.close()
    answers.close()


def test_other_subclasses_stay_on_the_ring() -> None:
    class Counting(queues.Queue[Any]):
        def __init__(self) -> None:
            super().__init__(ctx=mp.get_context())
            self.count = 0

        def put(self, *args: Any, **options: Any) -> None:
            self.count += 1
            super().put(*args, **options)

    assert Counting.__bases__ == (queues.Queue,)
    assert Noting.__bases__ == (variants.FedQueue,)
    queue = Counting()
    queue.put(1)
    assert (queue.get(timeout=TIME), queue.count) == (1, 1)
