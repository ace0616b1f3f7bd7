"""Pipes: messages, bytes, descriptors, the end of file, and waiting for several connections at once."""

from __future__ import annotations

import array
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import polyproc as mp
from polyproc import reduction
from polyproc.connection import Client, Connection, Listener, wait

TIME = 20.0


@pytest.fixture(params=["fork", "spawn"])
def context(request: pytest.FixtureRequest) -> Any:
    return mp.get_context(request.param)


# ------------------------------------------------------------------------------------------------ messages


@pytest.mark.parametrize(
    "item", [None, 1, (1, "a"), {"k": [1.5]}, "é" * 40_000, b"x" * 200_000, bytearray(b"y" * 200_000), [1] * 50_000, 1j]
)
def test_both_ends_of_a_pipe_send_and_receive(item: object) -> None:
    left, right = mp.Pipe()
    left.send(item)
    assert right.recv() == item
    right.send(item)
    assert left.recv() == item


def test_a_one_way_pipe_goes_one_way() -> None:
    reader, writer = mp.Pipe(duplex=False)
    assert (reader.readable, reader.writable, writer.readable, writer.writable) == (True, False, False, True)
    writer.send(1)
    assert reader.recv() == 1
    with pytest.raises(OSError, match="read-only"):
        reader.send(1)
    with pytest.raises(OSError, match="write-only"):
        writer.recv()
    with pytest.raises(OSError, match="write-only"):
        writer.poll()


def test_the_ends_are_connections() -> None:
    for end in mp.Pipe():
        assert isinstance(end, Connection)
        assert isinstance(end.fileno(), int)


def test_send_bytes_takes_a_part_of_a_buffer() -> None:
    left, right = mp.Pipe()
    data = b"abcdefghij"
    for args, expected in (((), data), ((3,), b"defghij"), ((3, 4), b"defg"), ((10,), b""), ((10, 0), b"")):
        left.send_bytes(data, *args)
        assert right.recv_bytes() == expected
    left.send_bytes(array.array("i", [1, 2]))
    assert right.recv_bytes() == array.array("i", [1, 2]).tobytes()
    left.send_bytes(memoryview(data)[2:4])
    assert right.recv_bytes() == b"cd"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((11,), "buffer length < offset"),
        ((-1,), "offset is negative"),
        ((4, -1), "size is negative"),
        ((8, 3), "buffer length < offset"),
    ],
)
def test_send_bytes_refuses_parts_that_are_not_there(args: tuple[int, ...], words: str) -> None:
    left, _right = mp.Pipe()
    with pytest.raises(ValueError, match=words):
        left.send_bytes(b"abcdefghij", *args)


def test_send_bytes_wants_bytes() -> None:
    left, _right = mp.Pipe()
    with pytest.raises(TypeError, match="bytes-like"):
        left.send_bytes("text")  # type: ignore[arg-type]


def test_recv_bytes_into_fills_a_buffer() -> None:
    left, right = mp.Pipe()
    buffer = bytearray(10)
    left.send_bytes(b"abc")
    assert right.recv_bytes_into(buffer) == 3
    left.send_bytes(b"de")
    assert right.recv_bytes_into(buffer, 5) == 2
    assert buffer == b"abc\0\0de\0\0\0"
    left.send_bytes(b"x" * 11)
    with pytest.raises(mp.BufferTooShort) as caught:
        right.recv_bytes_into(buffer)
    assert caught.value.args == (b"x" * 11,)
    with pytest.raises(ValueError, match="negative offset"):
        right.recv_bytes_into(buffer, -1)
    with pytest.raises(ValueError, match="offset too large"):
        right.recv_bytes_into(buffer, 11)


def test_recv_bytes_refuses_what_is_too_long() -> None:
    left, right = mp.Pipe()
    left.send_bytes(b"abc")
    with pytest.raises(ValueError, match="negative maxlength"):
        right.recv_bytes(-1)
    assert right.recv_bytes(3) == b"abc"
    left.send_bytes(b"abcd")
    with pytest.raises(OSError, match="bad message length"):
        right.recv_bytes(3)


@pytest.mark.parametrize("item", [[1, 2.25, None], 2**100, "é" * 5000, b"x" * 100_000])
def test_an_object_may_be_passed_on_as_bytes(item: object) -> None:
    left, right = mp.Pipe()
    left.send(item)
    data = right.recv_bytes()
    assert pickle.loads(data) == item
    right.send_bytes(data)
    assert left.recv() == item


def test_messages_keep_their_boundaries() -> None:
    left, right = mp.Pipe()
    for part in (b"a", b"", b"bc", b""):
        left.send_bytes(part)
    assert [right.recv_bytes() for _ in range(4)] == [b"a", b"", b"bc", b""]
    assert not right.poll()


# ------------------------------------------------------------------------------------------------ closing, ends, misuse


def test_a_closed_connection_says_so() -> None:
    left, right = mp.Pipe()
    with left:
        assert not left.closed
    assert left.closed
    left.close()
    calls: list[Callable[[], object]] = [
        left.recv, left.recv_bytes, left.poll, left.fileno, lambda: left.send(1), lambda: left.send_bytes(b""),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(OSError, match="handle is closed"):
            call()
    right.close()


def test_what_was_sent_before_the_end_is_received_before_the_end() -> None:
    left, right = mp.Pipe()
    left.send(1)
    left.close()
    assert right.poll()
    assert right.recv() == 1
    assert right.poll()
    with pytest.raises(EOFError):
        right.recv()
    with pytest.raises(EOFError):
        right.recv_bytes()
    with pytest.raises(BrokenPipeError):
        right.send(2)


def sleep_for_ever(connection: Any) -> None:
    connection.send("ready")
    signal.pause()


def test_the_death_of_the_other_end_is_the_end_of_file(context: Any, start: Callable[..., Any]) -> None:
    ours, theirs = context.Pipe()
    process = start(context, sleep_for_ever, theirs)
    theirs.close()
    assert ours.recv() == "ready"
    process.kill()
    begin = time.monotonic()
    with pytest.raises(EOFError):
        ours.recv()
    assert time.monotonic() - begin < 2
    with pytest.raises(BrokenPipeError):
        for _ in range(10):
            ours.send(1)


LARGE = 80_000_000  # more than a pipe carries before somebody asks for it


def send_large(connection: Any) -> None:
    connection.send("ready")
    connection.send_bytes(bytes(LARGE))
    connection.send("sent")


def test_a_sender_killed_amid_a_large_message_has_sent_nothing(start: Callable[..., Any]) -> None:
    context = mp.get_context("fork")
    ours, theirs = context.Pipe()
    process = start(context, send_large, theirs)
    theirs.close()
    assert ours.recv() == "ready"
    process.kill()
    process.join(TIME)
    with pytest.raises(EOFError):
        ours.recv_bytes()


@pytest.mark.parametrize("ask", ["recv", "poll", "wait"])
def test_a_large_message_comes_when_it_is_asked_for(start: Callable[..., Any], ask: str) -> None:
    context = mp.get_context("fork")
    ours, theirs = context.Pipe()
    start(context, send_large, theirs)
    theirs.close()
    assert ours.recv() == "ready"
    if ask == "poll":
        end = time.monotonic() + TIME
        while not ours.poll(0.01):
            assert time.monotonic() < end
    elif ask == "wait":
        assert wait([ours], TIME) == [ours]
    assert len(ours.recv_bytes()) == LARGE
    assert ours.recv() == "sent"


def test_a_send_of_what_cannot_be_pickled_names_it() -> None:
    left, right = mp.Pipe()
    with pytest.raises(TypeError) as caught:
        left.send(threading.Lock())
    assert "lock" in "".join([str(caught.value), *caught.value.__notes__])
    left.send(1)
    assert right.recv() == 1


@pytest.mark.parametrize("timeout", ["1", []])
def test_a_timeout_that_is_not_a_number_is_named(timeout: Any) -> None:
    left, _right = mp.Pipe()
    with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
        left.poll(timeout)


def test_a_pipe_is_not_pickled_outside_a_message() -> None:
    left, _right = mp.Pipe()
    with pytest.raises(RuntimeError, match="should only be shared"):
        pickle.dumps(left)


# ------------------------------------------------------------------------------------------------ between processes


def echo(connection: Any) -> None:
    for data in iter(connection.recv_bytes, b""):
        connection.send_bytes(data)
    connection.close()


def test_a_child_answers(context: Any, start: Callable[..., Any]) -> None:
    ours, theirs = context.Pipe()
    process = start(context, echo, theirs)
    theirs.close()
    for item in (1, "text", [1.5, None], {"k": b"x" * 1_000_000}):
        ours.send(item)
        assert ours.poll(TIME)
        assert ours.recv() == item
    ours.send_bytes(b"")
    with pytest.raises(EOFError):
        ours.recv()
    process.join(TIME)
    assert process.exitcode == 0


def receive_a_connection(connection: Any) -> None:
    other = connection.recv()
    other.send(("hello", os.getpid()))
    connection.send(other.recv())


def test_a_connection_travels_to_a_process_that_runs_already(context: Any, start: Callable[..., Any]) -> None:
    ours, theirs = context.Pipe()
    process = start(context, receive_a_connection, theirs)
    left, right = context.Pipe()
    ours.send(right)
    right.close()
    assert left.poll(TIME)
    assert left.recv() == ("hello", process.pid)
    left.send("back")
    assert ours.poll(TIME)
    assert ours.recv() == "back"


def write_to_descriptor(connection: Any) -> None:
    descriptor = reduction.recv_handle(connection)
    os.write(descriptor, b"through a descriptor")
    os.close(descriptor)


def test_a_descriptor_travels_over_a_pipe(context: Any, start: Callable[..., Any]) -> None:
    ours, theirs = context.Pipe()
    process = start(context, write_to_descriptor, theirs)
    reader, writer = os.pipe()
    try:
        assert process.pid is not None
        reduction.send_handle(ours, writer, process.pid)
        process.join(TIME)
        assert process.exitcode == 0
        assert os.read(reader, 100) == b"through a descriptor"
    finally:
        os.close(reader)
        os.close(writer)


# ------------------------------------------------------------------------------------------------ poll and wait


def test_poll_waits_no_longer_than_it_is_told() -> None:
    left, right = mp.Pipe()
    assert not right.poll()
    assert not right.poll(-1)
    begin = time.monotonic()
    assert not right.poll(0.1)
    assert 0.09 < time.monotonic() - begin < 5
    left.send(None)
    assert right.poll(None)
    assert right.poll()


def test_wait_gives_all_that_is_ready_in_the_order_given() -> None:
    pipes = [mp.Pipe() for _ in range(3)]
    readers = [reader for reader, _ in pipes]
    assert wait(readers, 0) == []
    assert wait(readers, -1) == []
    assert wait(readers, 0.01) == []
    pipes[2][1].send(1)
    pipes[0][1].close()
    assert wait(readers, TIME) == [readers[0], readers[2]]


def send_later(connection: Any, go: Any) -> None:
    go.recv()
    connection.send("now")


def test_wait_takes_connections_descriptors_sockets_and_sentinels(start: Callable[..., Any]) -> None:
    context = mp.get_context("fork")
    ours, theirs = context.Pipe()
    go_ours, go_theirs = context.Pipe()
    process = start(context, send_later, theirs, go_theirs)
    left, right = socket.socketpair()
    reader, writer = os.pipe()
    try:
        everything = [ours, process.sentinel, left, reader]
        assert wait(everything, 0) == []
        right.send(b"x")
        assert wait(everything, TIME) == [left]
        os.write(writer, b"x")
        assert wait(everything, TIME) == [left, reader]
        go_ours.send(None)
        assert ours in wait([ours, process.sentinel], TIME)
        process.join(TIME)
        assert wait(everything, TIME) == everything
    finally:
        left.close()
        right.close()
        os.close(reader)
        os.close(writer)


def test_wait_wakes_for_a_message_of_another_thread() -> None:
    left, right = mp.Pipe()
    quiet, _other = mp.Pipe()
    thread = threading.Thread(target=lambda: left.send("now"))
    thread.start()
    assert wait([quiet, right], TIME) == [right]
    thread.join(TIME)
    assert right.recv() == "now"


def test_wait_names_what_it_cannot_wait_for() -> None:
    with pytest.raises(ValueError, match="Invalid file object"):
        wait(["text"], 0)
    with pytest.raises(ValueError, match="Invalid file descriptor"):
        wait([-1], 0)


# ------------------------------------------------------------------------------------------------ plain descriptors


def test_a_connection_on_a_plain_descriptor_speaks_the_standard_framing() -> None:
    left, right = socket.socketpair()
    with Connection(left.detach()) as connection, right:
        connection.send_bytes(b"abc")
        assert right.recv(100) == b"\0\0\0\3abc"
        right.sendall(b"\0\0\0\2de")
        assert wait([connection], TIME) == [connection]
        assert connection.recv_bytes() == b"de"


def serve(address: Any, authkey: bytes) -> None:
    with Client(address, authkey=authkey) as connection:
        connection.send("hello")


def test_listener_and_client_find_each_other(context: Any, start: Callable[..., Any]) -> None:
    with Listener(authkey=b"secret") as listener:
        start(context, serve, listener.address, b"secret")
        with listener.accept() as connection:
            assert type(connection) is Connection
            assert connection.recv() == "hello"
