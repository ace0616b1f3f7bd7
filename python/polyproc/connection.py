"""Connections: the two ends of a pipe between processes, and waiting for several at once.

:func:`Pipe` gives connections whose messages travel through shared memory; a socket pair beside it carries the bell,
the end of file and descriptors. A :class:`Connection` on a plain descriptor (of a :class:`Listener`, of a process
that is not polyproc's) speaks the standard library's stream framing, so it talks to any Python.

Everything but :func:`Pipe`, :func:`wait`, the shared-memory connection, and :class:`Listener` and :func:`Client` (which
are in ``_listener``) is the interpreter's own source, re-rooted here.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from . import _polyproc
from ._borrowed import reroot

reroot(globals())

# After the source that is executed here: they take the place of what it defines.
from ._listener import (  # noqa: E402
    Client,
    Listener,
    _create_response,  # noqa: F401
    _verify_challenge,  # noqa: F401
    answer_challenge,  # noqa: F401
    deliver_challenge,  # noqa: F401
)

if TYPE_CHECKING:
    from multiprocessing import reduction
    from multiprocessing.connection import Connection as Connection

    # What the re-rooted source defines and the standard stubs leave out.
    SocketClient: Any
    SocketListener: Any
    XmlListener: Any
    _validate_family: Any
    address_type: Any
    arbitrary_address: Any
    default_family: str

#: A pipe of plain descriptors, in the standard library's stream framing.
_stream_pipe: Any = globals()["Pipe"]

XmlListener.__bases__ = (Listener,)

__all__ = ["Client", "Listener", "Pipe", "wait"]


class RingConnection(_polyproc.PipeEnd, Connection):
    """One end of a :func:`Pipe`. Its methods are the extension module's; see :class:`Connection` for what they do."""

    def __init__(self, end: _polyproc.PipeEnd) -> None:
        """Takes over `end`, which is closed from then on."""
        self._take(end)

    def __del__(self) -> None:
        # Not the parent's: the extension module closes what is dropped.
        pass

    def __enter__(self) -> RingConnection:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        shared = self._share()  # first: it refuses where nothing is being sent
        return _rebuild, (reduction.DupFd(self._descriptor()), shared)


def _rebuild(descriptor: Any, shared: Any) -> RingConnection:
    return RingConnection(_polyproc.PipeEnd._attach(descriptor.detach(), shared))


def Pipe(duplex: bool = True) -> tuple[RingConnection, RingConnection]:
    """Makes a pipe and returns its two ends.

    Args:
        duplex: Both ends send and receive. If false, the first only receives and the second only sends.

    Example:
        >>> import polyproc as mp
        >>> left, right = mp.Pipe()
        >>> left.send(("hello", 1))
        >>> right.recv()
        ('hello', 1)
    """
    first, second = _polyproc.PipeEnd.pair(bool(duplex))
    return RingConnection(first), RingConnection(second)


def wait(object_list: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Waits until something in `object_list` is ready, and returns what is.

    Args:
        object_list: Connections, sockets, sentinels of processes, and whatever else has a ``fileno()`` or is one.
        timeout: Seconds; None waits as long as it takes, zero and below only looks.

    Returns:
        All that is ready, in the order given: a connection is when ``recv()`` would not wait (also at its end). An
        empty list if nothing was in time.

    Raises:
        ValueError: something is not a descriptor, or a connection in the list is closed.

    Example:
        >>> import polyproc as mp
        >>> left, right = mp.Pipe()
        >>> left.send("hello")
        >>> mp.connection.wait([left, right], timeout=1) == [right]
        True
    """
    objects = list(object_list)
    deadline = None if timeout is None else time.monotonic() + timeout
    poller = select.poll()
    by_descriptor: dict[int, Any] = {}
    rings: dict[int, Callable[[], bool]] = {}
    for each in objects:
        if isinstance(each, _polyproc.PipeEnd):
            rings[id(each)] = partial(each.poll, 0)
        elif (holds := getattr(each, "_holds_item", None)) is not None:
            rings[id(each)] = holds
        descriptor = _descriptor_of(each)
        if descriptor in by_descriptor:
            raise KeyError(f"{each!r} (FD {descriptor}) is already registered")
        by_descriptor[descriptor] = each
        poller.register(descriptor, select.POLLIN)

    while True:
        # A ring that holds a message needs no bell.
        ready = {key for key, holds in rings.items() if holds()}
        left = 0.0 if ready else None if deadline is None else deadline - time.monotonic()
        rung = poller.poll(None if left is None else max(left, 0.0) * 1000)
        ready.update(key for descriptor, _ in rung if (key := id(by_descriptor[descriptor])) not in rings)
        if rung:
            # A bell may have rung for a message that somebody else has taken. And whoever is found dead here has put what
            # it put before that, whether or not the bell has rung yet: the rings are looked at last.
            ready.update(key for key, holds in rings.items() if holds())
        if ready:
            return [each for each in objects if id(each) in ready]
        if left is not None and left <= 0:
            return []


def _descriptor_of(each: Any) -> int:
    if isinstance(each, int):
        descriptor = each
    else:
        try:
            descriptor = int(each.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {each!r}") from None
    if descriptor < 0:
        raise ValueError(f"Invalid file descriptor: {descriptor}")
    return descriptor


# ------------------------------------------------------------------------------------------------ descriptors in pipes

_send_handle = reduction.send_handle
_recv_handle = reduction.recv_handle


def send_handle(conn: Any, handle: int, destination_pid: int | None) -> None:
    """Sends a copy of the descriptor `handle` over `conn`."""
    if isinstance(conn, _polyproc.PipeEnd):
        conn._send_descriptor(handle)
    else:
        _send_handle(conn, handle, destination_pid)


def recv_handle(conn: Any) -> int:
    """Receives a descriptor that :func:`send_handle` sent.

    Raises:
        RuntimeError: the other end sent something else.
    """
    if isinstance(conn, _polyproc.PipeEnd):
        return conn._receive_descriptor()
    return _recv_handle(conn)


setattr(reduction, "send_handle", send_handle)
setattr(reduction, "recv_handle", recv_handle)
