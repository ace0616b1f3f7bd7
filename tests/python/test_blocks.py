"""Large messages: arrays arrive private and writable, without a copy on arrival, and their memory is given back."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import pytest

import polyproc as mp
from polyproc._polyproc import Block

numpy = pytest.importorskip("numpy")

TIME = 20.0


def through_queue(item: object) -> Any:
    queue = mp.Queue()
    queue.put(item)
    return queue.get()


def through_pipe(item: object) -> Any:
    left, right = mp.Pipe()
    left.send(item)
    return right.recv()


@pytest.mark.parametrize("through", [through_queue, through_pipe])
@pytest.mark.parametrize("size", [1, 1000, 100_000, 1_000_000])
def test_an_array_arrives_whole_and_writable(through: Callable[[object], Any], size: int) -> None:
    sent = numpy.arange(size, dtype=numpy.float64)
    got = through(sent)
    assert got.dtype == sent.dtype
    assert numpy.array_equal(got, sent)
    assert got.flags.writeable
    got[0] = -1
    assert sent[0] == 0


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_read_only_array_arrives_writable(size: int) -> None:
    sent = numpy.frombuffer(bytes(size), dtype=numpy.uint8)
    assert not sent.flags.writeable
    for got in (through_queue(sent), through_pipe([sent])[0]):
        assert got.flags.writeable
        got[0] = 1
    assert sent[0] == 0


def test_shapes_orders_and_types_are_kept() -> None:
    base = numpy.arange(60_000).reshape(100, 200, 3)
    for sent in (base, base.T, numpy.asfortranarray(base), base[::2, ::3], base.astype("complex128"), base > 5):
        got = through_queue(sent)
        assert got.shape == sent.shape
        assert got.dtype == sent.dtype
        assert numpy.array_equal(got, sent)


def test_several_arrays_in_one_message_are_apart() -> None:
    item = {"a": numpy.zeros(50_000), "b": [numpy.ones(50_000), numpy.full(10, 2.0)], "c": "text"}
    got = through_queue(item)
    got["a"][:] = 5
    assert got["b"][0].sum() == 50_000
    assert got["b"][1].sum() == 20
    assert got["c"] == "text"


def test_an_array_outlives_its_queue_and_its_message() -> None:
    queue = mp.Queue()
    for number in range(4):
        queue.put(numpy.full(100_000, number))
    arrays = [queue.get() for _ in range(4)]
    del queue
    gc.collect()
    more = [through_queue(numpy.full(100_000, 9)) for _ in range(4)]
    assert [array[0] for array in arrays] == [0, 1, 2, 3]
    assert [array[-1] for array in arrays] == [0, 1, 2, 3]
    assert all(array[0] == 9 for array in more)


def test_a_view_keeps_the_memory() -> None:
    view = through_queue(numpy.arange(100_000))[1000:2000]
    gc.collect()
    for _ in range(4):
        through_queue(numpy.zeros(100_000))
    assert view[0] == 1000
    assert view[-1] == 1999


def test_memory_is_used_again() -> None:
    address = []
    for _ in range(20):
        array = through_queue(numpy.zeros(500_000))
        address.append(array.__array_interface__["data"][0])
        del array
    assert len(set(address)) < 10


def test_a_received_array_can_be_sent_on() -> None:
    first = through_queue(numpy.arange(100_000))
    second = through_pipe(first)
    first[:] = 0
    assert second[-1] == 99_999


def write_and_report(array: Any, connection: Any) -> None:
    before = int(array[0])
    array[:] = 7
    connection.send((before, int(array.sum())))


def test_after_a_fork_each_side_writes_to_its_own_copy() -> None:
    context = mp.get_context("fork")
    array = through_queue(numpy.ones(100_000, dtype=numpy.int64))
    ours, theirs = context.Pipe()
    process = context.Process(target=write_and_report, args=(array, theirs))
    process.start()
    try:
        assert ours.poll(TIME)
        assert ours.recv() == (1, 700_000)
        assert array.sum() == 100_000
        array[:] = 3
        assert array.sum() == 300_000
    finally:
        process.join(TIME)
    assert process.exitcode == 0


def test_a_forked_child_reads_what_the_parent_gave_back() -> None:
    context = mp.get_context("fork")
    array = through_queue(numpy.full(100_000, 5))
    go, went = context.Pipe()
    report, reported = context.Pipe()

    def read() -> None:
        went.recv()
        report.send(int(array.sum()))

    process = context.Process(target=read)
    process.start()
    try:
        del array
        gc.collect()
        for _ in range(4):
            through_queue(numpy.zeros(100_000))
        go.send(None)
        assert reported.poll(TIME)
        assert reported.recv() == 500_000
    finally:
        process.join(TIME)
    assert process.exitcode == 0


def produce(queue: Any, count: int) -> None:
    for number in range(count):
        queue.put(numpy.full(200_000, number))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_arrays_of_a_process_that_has_ended_arrive(method: str) -> None:
    context = mp.get_context(method)
    queue = context.Queue()
    process = context.Process(target=produce, args=(queue, 5))
    process.start()
    process.join(TIME)
    assert process.exitcode == 0
    for number in range(5):
        array = queue.get(timeout=TIME)
        assert array[0] == number
        assert array[-1] == number


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 1_000_000, 20_000_000])
def test_long_bytes_arrive_whole(size: int) -> None:
    data = os.urandom(1000) * (size // 1000 + 1)
    data = data[:size]
    assert through_queue(data) == data
    left, right = mp.Pipe()
    left.send_bytes(data)
    assert right.recv_bytes() == data


def test_a_block_is_a_writable_buffer() -> None:
    block = Block(10_000)
    with memoryview(block) as view:
        assert not view.readonly
        assert view.nbytes == len(block) == 10_000
        view[:3] = b"abc"
    assert bytes(memoryview(block)[:3]) == b"abc"
