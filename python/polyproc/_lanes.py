"""Lanes: how the proxies of this program reach a manager's server without a socket. An *own* module.

```text
 thread ──▶ requests (one queue per server) ──▶ dispatcher      calls that cannot block: dict, list, Namespace, Value
   ▲ │                                              │
   │ └────▶ pipe (one per client thread) ◀──────────┤ replies
   └────────────── pipe ◀───────────────────────────┘
            pipe ──▶ a thread of the server              all other calls: locks, queues, pools, the program's own types
```

A lane is opened over the manager's socket, after the handshake there, and only between processes of one session; all
others (another program, another machine, the standard library's managers) are served over the socket as before.

A call of which the reply was not awaited (a signal handler raised) leaves its lane *owing*: the next call takes that
reply away first, or, if it is still to come, goes by another lane.
"""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

from . import _polyproc, connection, context, process, reduction, util

__all__ = ["ManagerDiedError", "connect", "release"]

_encode = _polyproc.encode_plain


class ManagerDiedError(ConnectionResetError, BrokenPipeError, ConnectionRefusedError, EOFError):
    """The server process of a manager is gone, and the shared objects with it.

    It is each of the errors that the standard library raises there. The message tells which server, and how it ended.
    """


class Lane:
    """The way of one thread to one server."""

    __slots__ = ("index", "put", "end", "recv", "busy", "owed", "threaded", "slow")

    def __init__(self, index: int, put: Callable[[bytes], None], end: _polyproc.PipeEnd) -> None:
        self.index = index
        self.put = put
        self.end = end
        self.recv = end.recv
        self.busy = False  # a call is under way
        self.owed = False  # a call was given up before its reply had come
        self.threaded = False  # a thread of the server reads the pipe
        self.slow: set[Any] = set()  # objects that the dispatcher will not call


class Route:
    """What this process knows of a server that it has a lane to."""

    def __init__(self, address: str, pid: int, requests: _polyproc.Queue[Any]) -> None:
        self.address = address
        self.pid = pid
        self.client = os.getpid()
        self.put: Callable[[Any], None] = requests._put_bytes

    def post(self, name: str, *args: Any) -> None:
        """Sends a request that has no reply."""
        data = _encode((-1, None, name, args, {}))
        assert data is not None
        self.put(data)


#: Servers that this process has had a lane to, by address.
_routes: dict[str, Route] = {}

#: Addresses whose servers have no lanes for us.
_sockets_only: set[Any] = set()

#: Server processes that this process has started, by address: for as long as their managers keep them.
_started: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()

#: The pids of those that were shut down, the latest last, and how many are remembered.
_ended: dict[Any, int] = {}
_MOST_ENDED = 64

_thread = util.ForkAwareLocal()


class LaneConnection:
    """A thread's connection to a server over lanes. It may be used wherever the standard library opens a new one."""

    def __init__(self, address: str, authkey: bytes, lane: Lane) -> None:
        self._address = address
        self._authkey = authkey
        self._lane = lane
        self._parked: list[Lane] = []  # kept: the server releases what is held by a lane whose process has ended
        self._request: Any = None

    def call(self, ident: str | None, name: str, args: Any, kwds: Any) -> Any:
        """Sends a request and returns the reply: its kind and the result."""
        lane = self._lane
        if lane.busy or lane.owed:
            lane = self._settle(lane)
        lane.busy = True
        try:
            if ident not in lane.slow and (data := _encode((lane.index, ident, name, args, kwds))) is not None:
                lane.put(data)
                reply = lane.recv()
                if reply[0] == "#SLOW":
                    if ident is not None:
                        lane.slow.add(ident)
                    reply = self._call_slowly(lane, (ident, name, args, kwds))
            else:
                reply = self._call_slowly(lane, (ident, name, args, kwds))
        except BaseException as error:
            lane.owed, lane.busy = True, False
            if type(error) in (EOFError, BrokenPipeError, ConnectionResetError):
                _forget(self._address)
                raise _died(self._address) from None
            raise
        lane.busy = False
        return reply

    def _call_slowly(self, lane: Lane, request: Any) -> Any:
        if not lane.threaded:
            lane.threaded = True
            data = _encode((lane.index, None, "#THREAD", (), {}))
            assert data is not None
            lane.put(data)
        lane.end.send(request)
        return lane.recv()

    def _settle(self, lane: Lane) -> Lane:
        """A lane on which nothing is under way and nothing owed."""
        if not lane.busy and lane.end.poll(0):
            lane.owed = False
            try:
                lane.recv()
                return lane
            except EOFError:
                _forget(self._address)
                raise _died(self._address) from None
        for other in self._parked:
            if not other.busy and not other.owed:
                return other
        fresh = _open(self._address, self._authkey)
        if fresh is None:
            raise _died(self._address)
        if lane.busy:  # it is still the one, once the call has come back
            self._parked.append(fresh)
        else:
            self._parked.append(lane)
            self._lane = fresh
        return fresh

    @property
    def alive(self) -> bool:
        """False if the server is known to be gone."""
        lane = self._lane
        return lane.busy or lane.owed or not lane.end.poll(0)

    # What the standard library does with a connection.

    def send(self, request: Any) -> None:
        self._request = request

    def recv(self) -> Any:
        request, self._request = self._request, None
        if request[1] == "accept_connection":
            return "#RETURN", None
        return self.call(*request)

    def close(self) -> None:
        pass

    def __enter__(self) -> LaneConnection:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class SocketConnection:
    """A connection over a socket, with the calls of a lane."""

    def __init__(self, stream: Any, address: Any) -> None:
        self.close = stream.close
        self._stream = stream
        self._address = address

    def call(self, ident: str | None, name: str, args: Any, kwds: Any) -> Any:
        try:
            self._stream.send((ident, name, args, kwds))
            return self._stream.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            if _is_known(self._address):
                raise _died(self._address) from error
            raise


def connect(address: Any, authkey: bytes | None = None) -> Any:
    """A connection to the manager at `address`: this thread's lane, where there can be one, or else a new socket.

    Raises:
        ManagerDiedError: the manager was known, and is gone.
        OSError: nobody listens there.
    """
    direct = getattr(_thread, "direct", None)
    if direct is not None and direct.address == address:
        return direct
    if type(address) is not str or address in _sockets_only or authkey is None:
        return _connect_by_socket(address, authkey)
    lanes = _lanes_of_thread()
    known = lanes.get((address, authkey))
    if known is not None:
        if known.alive:
            return known
        _forget(address)
    lane = _open(address, authkey)
    if lane is None:
        return _connect_by_socket(address, authkey)
    fresh = lanes[address, authkey] = LaneConnection(address, authkey, lane)
    return fresh


def _lanes_of_thread() -> dict[tuple[str, bytes], LaneConnection]:
    try:
        lanes: dict[tuple[str, bytes], LaneConnection] = _thread.lanes
    except AttributeError:
        lanes = _thread.lanes = {}
    return lanes


def _connect_by_socket(address: Any, authkey: bytes | None) -> Any:
    try:
        return connection.Client(address, authkey=authkey)
    except (ConnectionRefusedError, ConnectionResetError, FileNotFoundError, EOFError) as error:
        if _is_known(address):
            raise _died(address) from error
        raise


def _open(address: str, authkey: bytes) -> Lane | None:
    """Opens a lane; None if that server has none for this process."""
    stream = _connect_by_socket(address, authkey)
    try:
        name = process.current_process().name
        if threading.current_thread() is not threading.main_thread():
            name += "|" + threading.current_thread().name
        stream.send((None, "open_lane", (name,), {}))
        kind, info = stream.recv()
        if kind != "#RETURN" or info is None:
            _sockets_only.add(address)
            return None
        pid, index, requests_name, end_name = info
        descriptor = reduction.recv_handle(stream)
        requests: _polyproc.Queue[Any] = _polyproc.Queue()
        try:
            requests._attach(requests_name)
        except RuntimeError:  # another session
            os.close(descriptor)
            stream.send(False)
            _sockets_only.add(address)
            return None
        end = _polyproc.PipeEnd._attach(descriptor, end_name)
        stream.send(True)
        stream.recv()
    except (EOFError, ConnectionResetError, BrokenPipeError) as error:
        raise _died(address) from error
    finally:
        stream.close()
    route = _routes.get(address)
    if route is None or route.pid != pid or route.client != os.getpid():
        _routes[address] = Route(address, pid, requests)
        util.Finalize(None, _say_farewell, args=(address, pid, os.getpid()), exitpriority=-5)
    return Lane(index, requests._put_bytes, end)


def release(address: Any, authkey: bytes, ident: str) -> None:
    """Tells a server that a proxy is gone. Waits for nothing where there is a route, so it may be called from anywhere."""
    route = _routes.get(address) if type(address) is str else None
    if route is not None:
        route.post("decref", ident)
        return
    stream = connect(address, authkey)
    try:
        stream.send((None, "decref", (ident,), {}))
        stream.recv()
    finally:
        stream.close()


def started(address: Any, child: Any) -> None:
    """Remembers the server process that this process has started."""
    _started[address] = child
    _ended.pop(address, None)


def shut_down(address: Any, child: Any) -> None:
    """Remembers a server that was shut down in order."""
    _forget(address)
    _routes.pop(address, None)
    _started.pop(address, None)
    _ended[address] = child.pid
    if len(_ended) > _MOST_ENDED:
        del _ended[next(iter(_ended))]


def _forget(address: Any) -> None:
    lanes = _lanes_of_thread()
    for key in [key for key in lanes if key[0] == address]:
        del lanes[key]


def _say_farewell(address: str, pid: int, client: int) -> None:
    """At the regular end of a process: what it holds, it has left behind on purpose."""
    route = _routes.get(address)
    if route is not None and route.pid == pid and os.getpid() == client:
        route.post("farewell", client)


def _is_known(address: Any) -> bool:
    """Whether this process has had to do with a server at that address."""
    return address in _started or address in _routes or address in _ended


def _died(address: Any) -> ManagerDiedError:
    """What to raise when the server at `address` is found to be gone."""
    child = _started.get(address)
    route = _routes.get(address) if type(address) is str else None
    pid, how = _ended.get(address), "is gone"
    if pid is not None:
        how = "was shut down"
    elif child is not None and _is_open(child):
        pid = child.pid
        if child._parent_pid == os.getpid():
            child.join(1)
            how = _end_of(child.exitcode)
    elif route is not None:
        pid = route.pid
    _polyproc.sweep_dead()  # what is served from shared memory ends with the server, not when somebody has swept it
    whose = f"the server process of the manager at {address!r}" + (f" (pid {pid})" if pid else "")
    return ManagerDiedError(f"{whose} {how}: the objects that lived in it are lost, and its proxies are of no use any more")


def _end_of(code: int | None) -> str:
    if code is None:
        return "has closed its connections"
    if code < 0:
        return f"was killed by {_name_of(-code)}"
    return f"has ended with exit code {code}"


def _is_open(child: Any) -> bool:
    return not getattr(child, "_closed", False)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _NoChild:
    """Stands as the child that is being spawned while a name is asked for that travels by other means."""


def name_of(shared: Any) -> bytes:
    """The name in the session of a pipe end or queue, for a process that takes hold of it while this one still does."""
    name: bytes = unsent(shared._share)
    return name


def unsent(share: Callable[[], Any]) -> Any:
    """Calls what names objects of the engine that are being sent, although the names travel by other means."""
    before = context.get_spawning_popen()
    stand_in: Any = _NoChild()
    context.set_spawning_popen(stand_in)
    try:
        return share()
    finally:
        context.set_spawning_popen(before)
