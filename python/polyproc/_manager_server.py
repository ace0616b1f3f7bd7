"""The serving side of a manager: one dispatcher for all that cannot block, a thread for each client that needs one. An
*own* module.

See :mod:`polyproc._lanes` for the picture. A client thread's own server thread is started with its first call that may
block, and from then on makes all of that client's calls of that kind, so that an ``RLock`` knows its owner.

When a client process is killed while it holds a lock, the thread that took the lock for it releases it, and the next to
acquire it is told. A thread of a client that ends, and a process that ends in order, take nothing back that others may
release.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable
from traceback import format_exc
from typing import Any

from . import _polyproc, connection, process, reduction, util
from ._lanes import _thread, name_of, unsent
from ._shared_log import Log, Moved, TooLarge

__all__ = ["LaneServer"]

#: What others than the holder may release: a process that ends in order leaves these as they are.
_ANYBODYS = (type(threading.Lock()), threading.Semaphore)
_LOCKS = (*_ANYBODYS, type(threading.RLock()), threading.Condition)
#: Methods that take and give them.
_TAKES = frozenset({"acquire", "__enter__"})
_GIVES = frozenset({"release", "__exit__"})

#: Functions of the server that never wait.
_QUICK_FUNCTIONS = frozenset(
    {"incref", "decref", "dummy", "number_of_objects", "get_methods", "open_replica", "refill_replica"}
)

#: Seconds that the dispatcher waits for a log's lock, which a client may have that is stopped.
_PATIENCE = 0.05

#: Objects that have a log, at most.
_MOST_LOGS = 256

#: Iterators over objects in memory.
_NONE: dict[int, int] = {}
_ITERATORS = (type(iter(_NONE)), type(iter(_NONE.values())), type(iter(_NONE.items())), type(iter([0])), type(reversed([0])))


class Client:
    """A client thread as the server sees it."""

    def __init__(self, end: Any, name: str, pid: int | None, pidfd: int) -> None:
        self.end = end
        self.name = name
        self.pid = pid
        self.pidfd = pidfd  # readable once its process is gone; -1 if that cannot be known
        self.thread: threading.Thread | None = None
        self.held: list[tuple[str, Any]] = []


class _Unheard:
    """A connection for functions of the server that would reply by themselves."""

    def send(self, reply: Any) -> None:
        pass


class _Direct:
    """What the dispatcher itself uses to call an object of its own server."""

    def __init__(self, server: LaneServer) -> None:
        self.address = server.address
        self._server = server
        self._request: Any = None

    def call(self, *request: Any) -> Any:
        return self._server._reply_to(request, None)

    def send(self, request: Any) -> None:
        self._request = request

    def recv(self) -> Any:
        if self._request[1] == "accept_connection":
            return "#RETURN", None
        return self.call(*self._request)

    def close(self) -> None:
        pass


class LaneServer:
    """What polyproc adds to the standard library's ``managers.Server``."""

    #: Types of objects that the dispatcher calls itself: none of their methods waits.
    quick_types: frozenset[Any] = frozenset()
    #: Functions that make such objects.
    quick_factories: frozenset[Any] = frozenset()
    #: How an object gets a log, by its type, which makes it.
    log_types: dict[Any, Callable[[Any, Any], Log]] = {}

    # The standard library's.
    address: Any
    authkey: bytes
    public: list[str]
    registry: dict[str, Any]
    listener: Any
    mutex: Any
    stop_event: threading.Event
    id_to_obj: dict[str, Any]
    id_to_refcount: dict[str, int]
    id_to_local_proxy_obj: dict[str, Any]
    fallback_mapping: dict[str, Any]

    def _prepare(self) -> None:
        self._requests: Any = None
        self._clients: dict[int, Client] = {}
        self._last_index = 0
        self._dead_holders: dict[str, int] = {}  # object: pid of who died holding it
        self._own: set[str] = set()  # objects that may get a log: nobody but this server has them
        self._logs: dict[str, Log] = {}
        self._alive: Any = None  # a lock that is held until the end
        self._farewells: set[int] = set()
        self._marks: dict[int, threading.Event] = {}
        self._quick_callables = self.quick_types | self.quick_factories

    # -------------------------------------------------------------------------------------------- running

    def accepter(self) -> None:
        """Accepts connections until the server stops; each has a thread, which begins with the handshake."""
        while not self.stop_event.is_set():
            try:
                peer = self.listener.accept()
            except OSError:
                if self.listener._listener is None:
                    return
                self.stop_event.wait(0.1)  # out of descriptors: it will pass
                continue
            threading.Thread(target=self.handle_request, args=(peer,), daemon=True).start()  # type: ignore[attr-defined]

    def _stop_with_parent(self) -> None:
        """Stops, and so removes the socket, when the process that started this one is gone."""
        parent = process.parent_process()
        if parent is None or os.environ.get("POLYPROC_ORPHANS") == "keep":
            return

        def watch() -> None:
            connection.wait([parent.sentinel])
            self.stop_event.set()

        threading.Thread(target=watch, name="polyproc-parent-watch", daemon=True).start()

    def _stop_dispatching(self) -> None:
        for log in self._logs.values():
            log.close()
        if self._requests is not None:
            self._post("#STOP")
            self._dispatcher.join(1)

    # -------------------------------------------------------------------------------------------- lanes

    def open_lane(self, c: Any, name: str) -> Any:
        """Opens a lane to the process at the other end of `c`, if that is a process of this machine."""
        pid = _peer_of(c)
        if not pid:
            return None
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        ours, theirs = connection.Pipe()
        with self.mutex:
            if self._requests is None:
                self._requests = _polyproc.Queue()
                self._requests._open(0)
                self._dispatcher = threading.Thread(target=self._dispatch, name="polyproc-dispatcher", daemon=True)
                self._dispatcher.start()
            self._last_index += 1
            index = self._last_index
            self._clients[index] = Client(ours, name, pid, pidfd)
            self._farewells.discard(pid)  # another process's, long ago
        self._sweep()
        try:
            c.send(("#RETURN", (os.getpid(), index, name_of(self._requests), name_of(theirs))))
            reduction.send_handle(c, theirs._descriptor(), pid)
            taken = c.recv()  # until then `theirs` is held here
        except (EOFError, OSError):
            taken = False
        finally:
            theirs.close()
        if not taken:
            self._drop(index)
        return None

    def _sweep(self) -> None:
        """Forgets clients that are gone and have no thread here which would see it."""
        for index, client in list(self._clients.items()):
            if client.thread is None and client.pidfd >= 0 and select.select([client.pidfd], [], [], 0)[0]:
                self._drop(index)

    def _drop(self, index: int) -> None:
        client = self._clients.pop(index, None)
        if client is not None:
            client.end.close()
            os.close(client.pidfd)

    def _dispatch(self) -> None:
        """Serves all requests that cannot block, of all clients."""
        _thread.direct = _Direct(self)
        get, decode = self._requests._get_bytes, _polyproc.decode_plain
        objects, quick, logs = self.id_to_obj, self.quick_types, self._logs
        clients = self._clients
        client = entry = result = reply = args = kwds = None
        while True:
            try:
                index, ident, name, args, kwds = decode(get())
                if index < 0:
                    if name == "#STOP":
                        return
                    self._take_note(name, args)
                    continue
                client = clients[index]
                entry = objects.get(ident)
                if (
                    entry is not None
                    and name in entry[1]
                    and type(entry[0]) in quick
                    and (entry[2] is None or name not in entry[2])
                    and ident not in logs
                ):
                    try:
                        result = getattr(entry[0], name)(*args, **kwds)
                    except Exception as error:
                        reply = ("#ERROR", error)
                    else:
                        reply = ("#RETURN", result)
                else:
                    reply = self._dispatch_other(client, ident, name, args, kwds)
                    if reply is None:
                        continue
                try:
                    client.end.send(reply)
                except OSError:
                    if client.thread is None:  # that would see it, and may be using what this closes
                        self._drop(index)
                except Exception:
                    client.end.send(("#UNSERIALIZABLE", format_exc()))
            except Exception:  # a client that is gone, or memory that was overwritten
                util.info("a request was not served: %s", format_exc())
            finally:
                client = entry = result = reply = args = kwds = None

    def _dispatch_other(self, client: Client, ident: str | None, name: str, args: Any, kwds: Any) -> Any:
        if name == "#THREAD" and ident is None:
            client.thread = threading.Thread(target=self._serve_lane, args=(client,), name=client.name, daemon=True)
            client.thread.start()
            return None
        if ident is None:
            if name in _QUICK_FUNCTIONS or (name == "create" and self._is_quick_to_create(args)):
                return self._reply_to((ident, name, args, kwds), None)
            return "#SLOW", None
        entry = self.id_to_obj.get(ident) or self.id_to_local_proxy_obj.get(ident)
        if entry is None or type(entry[0]) in self.quick_types or type(entry[0]) in _ITERATORS:
            return self._reply_to((ident, name, args, kwds), None, _PATIENCE)
        return "#SLOW", None

    def _is_quick_to_create(self, args: Any) -> bool:
        entry = self.registry.get(args[0]) if args else None
        return entry is not None and entry[0] in self._quick_callables

    def _take_note(self, name: str, args: Any) -> None:
        """A request that has no reply."""
        if name == "decref":
            self.decref(None, *args)
        elif name == "farewell":
            self._farewells.update(args)
        elif name == "#MARK":
            self._marks.pop(args[0]).set()

    def _post(self, name: str, *args: Any) -> None:
        data = _polyproc.encode_plain((-1, None, name, args, {}))
        assert data is not None
        self._requests._put_bytes(data)

    def _wait_for_dispatcher(self) -> None:
        """Waits until the dispatcher has read all that was put before."""
        mark = threading.Event()
        self._marks[id(mark)] = mark
        self._post("#MARK", id(mark))
        mark.wait(2)

    # -------------------------------------------------------------------------------------------- calls

    def serve_client(self, conn: Any) -> None:
        """Serves a client thread whose connection is a socket."""
        self._serve(Client(conn, threading.current_thread().name, None, -1))
        sys.exit(0)

    def _serve_lane(self, client: Client) -> None:
        self._serve(client)
        index = next((index for index, each in self._clients.items() if each is client), None)
        if index is not None:
            self._drop(index)

    def _serve(self, client: Client) -> None:
        while not self.stop_event.is_set():
            try:
                request = client.end.recv()
            except (EOFError, OSError):
                break
            except Exception:
                reply: Any = ("#TRACEBACK", format_exc())
            else:
                reply = self._reply_to(request, client)
            try:
                try:
                    client.end.send(reply)
                except OSError:
                    break
                except Exception:
                    client.end.send(("#UNSERIALIZABLE", format_exc()))
            except OSError:
                break
            request = reply = None
        request = reply = None
        self._release_held(client)

    def _reply_to(self, request: Any, client: Client | None, patience: float | None = None) -> Any:
        """Makes the call that a request asks for, and gives the reply."""
        try:
            log = self._logs.get(request[0])
            if log is None:
                return self._call(request, client)
            _, name, args, kwds = request
            place: list[Any] | None = None
            try:
                with log.call(name, args, kwds, patience) as place:
                    if place is None:
                        return "#SLOW", None
                    place.append(self._call(request, client))
            except (Moved, TooLarge):  # too large, or overwritten: the object here is what counts from now on
                self._close_log(request[0])
                if not place:
                    return self._reply_to(request, client)
            return place[0]
        except Exception:
            return "#TRACEBACK", format_exc()

    def _call(self, request: Any, client: Client | None) -> Any:
        try:
            ident, name, args, kwds = request
            if ident is None:
                if name not in self.public:
                    raise AssertionError(f"{name!r} unrecognized")
                return "#RETURN", getattr(self, name)(_Unheard(), *args, **kwds)
            try:
                obj, exposed, method_to_typeid = self.id_to_obj[ident]
            except KeyError:
                if ident not in self.id_to_local_proxy_obj:
                    raise
                obj, exposed, method_to_typeid = self.id_to_local_proxy_obj[ident]
            if name not in exposed:
                if name in self.fallback_mapping:
                    return "#RETURN", self.fallback_mapping[name](self, None, ident, obj, *args, **kwds)
                raise AttributeError(f"method {name!r} of {type(obj)!r} object is not in exposed={exposed!r}")
            try:
                result = getattr(obj, name)(*args, **kwds)
            except Exception as error:
                return "#ERROR", error
            if client is not None and isinstance(obj, _LOCKS):
                holder = self._note_holder(client, ident, obj, name, result)
                if holder:
                    return "#HOLDERDIED", (holder, result)
            typeid = method_to_typeid and method_to_typeid.get(name)
            if typeid:
                rident, rexposed = self.create(None, typeid, result)
                from .managers import Token

                return "#PROXY", (rexposed, Token(typeid, self.address, rident))
            return "#RETURN", result
        except Exception:
            return "#TRACEBACK", format_exc()

    # -------------------------------------------------------------------------------------------- objects with a log

    def open_replica(self, c: Any, ident: str) -> Any:
        """What a client needs to use an object without this server; None if it cannot."""
        log = self._logs.get(ident)
        if log is None:
            if ident not in self._own or len(self._logs) >= _MOST_LOGS:
                return None
            if self._alive is None:
                self._alive = _polyproc.SemLock()
                self._alive._open_lock()
                self._alive.acquire()
            try:
                target = self.id_to_obj[ident][0]
                log = self.log_types[type(target)](target, self._alive)
            except (TooLarge, OSError):
                self._own.discard(ident)
                return None
            log = self._logs.setdefault(ident, log)
        return unsent(log.share)

    def refill_replica(self, c: Any, ident: str) -> None:
        """Makes room in the log of an object."""
        log = self._logs.get(ident)
        if log is not None:
            try:
                log.refill()
            except (Moved, TooLarge, OSError):
                self._close_log(ident)

    def _close_log(self, ident: str) -> None:
        self._own.discard(ident)
        log = self._logs.pop(ident, None)
        if log is not None:
            log.close()

    # -------------------------------------------------------------------------------------------- who holds what

    def _note_holder(self, client: Client, ident: str, obj: Any, name: str, result: Any) -> int | None:
        """Keeps account of locks. The pid of the last holder, if that died holding it and the client has it now."""
        if name in _TAKES and result:
            client.held.append((ident, obj))
            return self._dead_holders.pop(ident, None) if client.pid else None
        if name in _GIVES:
            mine = (ident, obj)
            for holder in (client, *list(self._clients.values())):
                if mine in holder.held:
                    holder.held.remove(mine)
                    break
        return None

    def _release_held(self, client: Client) -> None:
        """Releases what a client holds that is gone; in the thread that took it, as an RLock asks for."""
        if not client.held:
            return
        if client.pidfd >= 0:
            # Its connection is closed, its process may live on: then others may still release these.
            poller = select.poll()
            poller.register(client.pidfd, select.POLLIN)
            poller.poll()
            self._wait_for_dispatcher()  # the farewell may be among what it has not read yet
        in_order = client.pid in self._farewells
        while client.held:
            ident, obj = client.held.pop()
            if in_order and isinstance(obj, _ANYBODYS):
                continue
            try:
                obj.release()
            except RuntimeError:
                continue
            self._dead_holders[ident] = client.pid or 0
            util.sub_warning(
                "%s (pid %s) ended while it held %r, which is released", client.name, client.pid, obj
            )

    # -------------------------------------------------------------------------------------------- objects

    def create(self, c: Any, typeid: str, /, *args: Any, **kwds: Any) -> tuple[str, tuple[str, ...]]:
        """Creates a shared object and gives its id. No lock is held while the program's own code runs."""
        factory, exposed, method_to_typeid, _ = self.registry[typeid]
        if factory is None:
            if kwds or len(args) != 1:
                raise ValueError("Without callable, must have one non-keyword argument")
            obj = args[0]
        else:
            obj = factory(*args, **kwds)
        if exposed is None:
            exposed = [name for name in dir(obj) if name[0] != "_" and callable(getattr(obj, name))]
        if method_to_typeid is not None:
            if not isinstance(method_to_typeid, dict):
                raise TypeError(f"Method_to_typeid {method_to_typeid!r}: type {type(method_to_typeid)!s}, not dict")
            exposed = [*exposed, *method_to_typeid]
        ident = f"{id(obj):x}"  # a string because XML-RPC only has integers of 32 bits
        with self.mutex:
            self.id_to_obj[ident] = (obj, set(exposed), method_to_typeid)
            self.id_to_refcount[ident] = self.id_to_refcount.get(ident, 0) + 1
            if type(factory) is type and factory in self.log_types:
                self._own.add(ident)
        return ident, tuple(exposed)

    def decref(self, c: Any, ident: str) -> None:
        """Says that one proxy is gone; with the last one the object goes."""
        if ident not in self.id_to_refcount and ident in self.id_to_local_proxy_obj:
            return
        with self.mutex:
            if self.id_to_refcount[ident] <= 0:
                raise AssertionError(f"Id {ident} has refcount {self.id_to_refcount[ident]}, not 1+")
            self.id_to_refcount[ident] -= 1
            if self.id_to_refcount[ident]:
                return
            del self.id_to_refcount[ident]
            entry = self.id_to_obj.pop(ident)
            if ident not in self.id_to_local_proxy_obj:
                self._own.discard(ident)
                self._logs.pop(ident, None)
        self._dead_holders.pop(ident, None)
        if type(entry[0]) not in self.quick_types and type(entry[0]).__module__ not in ("threading", "_thread", queue.__name__):
            # What ends here may take its time, as a pool does: not the dispatcher's.
            threading.Thread(target=_let_go, args=(entry,), daemon=True).start()


def _let_go(entry: Any) -> None:
    """The thread that calls this has the last reference."""


def _peer_of(c: Any) -> int | None:
    """The pid of the process at the other end of a Unix socket, as this process knows it; None if that cannot be told."""
    try:
        with socket.socket(fileno=os.dup(c.fileno())) as peer:
            if peer.family != socket.AF_UNIX:
                return None
            pid, _, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except OSError:
        return None
    return int(pid) or None
