"""Objects that live in a server process and are used through proxies. A *re-rooted* module.

The standard library's source, running over polyproc's processes, connections and pools, with these parts replaced:

* proxies of this program reach the server over the engine's channels (:mod:`polyproc._lanes`); a server answers them from
  one thread where a call cannot block (:mod:`polyproc._manager_server`). Over TCP, and to and from the standard
  library's managers, everything is as it was;
* a call to a server that has died raises :class:`ManagerDiedError`, which names it and tells how it ended;
* a lock whose holder has died is released, and whoever gets it next is warned
  (:class:`polyproc.errors.HolderDiedWarning`);
* a server stops with the program that started it, and removes its socket.

After the handshake everything that comes is unpickled, and nothing is encrypted: a manager at a TCP address on a network
that is not trusted lets everybody who can listen there run code.
"""

from __future__ import annotations

import array
import os
import shutil
import tempfile
import threading
import warnings
from typing import TYPE_CHECKING, Any

from . import _lanes, _shared_log, connection, process, util
from ._borrowed import reroot
from ._lanes import ManagerDiedError
from ._manager_server import LaneServer
from ._shared_dict import DictLog, DictMethods, NamespaceMethods, ValueLog, ValueMethods
from ._shared_list import ListLog, ListMethods

if TYPE_CHECKING:
    from multiprocessing.managers import *
    from multiprocessing.managers import Namespace, RemoteError, Server, Token  # noqa: F401
else:
    reroot(globals())

#: Private directories of servers' sockets begin like the standard library's.
_DIRECTORY_PREFIX = "pymp-"

_Array: Any = globals()["Array"]
_listener_client: dict[str, Any] = globals()["listener_client"]
_convert_to_error: Any = globals()["convert_to_error"]
_State: Any = globals()["State"]
_StandardServer: Any = globals()["Server"]
_DictProxy: Any = globals()["DictProxy"]
_dispatch: Any = globals()["dispatch"]
_Value: Any = globals()["Value"]
_Namespace: Any = globals()["Namespace"]


# ------------------------------------------------------------------------------------------------ the server


class Server(LaneServer, _StandardServer):  # type: ignore[no-redef, misc]
    """Serves the objects of a manager: ``BaseManager.get_server().serve_forever()``."""

    public = [*_StandardServer.public, "open_lane", "open_replica", "refill_replica"]
    quick_types = frozenset({dict, list, set, Namespace, _Value, array.array})
    quick_factories = frozenset({_Array})
    log_types = {
        dict: DictLog,
        list: ListLog,
        _Namespace: lambda target, alive: DictLog(vars(target), alive),
        _Value: lambda target, alive: ValueLog(vars(target), alive),
    }

    def __init__(self, registry: Any, address: Any, authkey: Any, serializer: str) -> None:
        directory = None
        if address is None and serializer == "pickle" and connection.default_family == "AF_UNIX":
            # Not the program's own directory, which would stay behind if the program were killed.
            directory = tempfile.mkdtemp(prefix=_DIRECTORY_PREFIX)
            util.Finalize(None, shutil.rmtree, args=(directory, True), exitpriority=-100)
            address = os.path.join(directory, "manager")
        try:
            super().__init__(registry, address, authkey, serializer)
        except BaseException:
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)
            raise
        self.stop_event = threading.Event()
        self._prepare()

    def serve_forever(self) -> None:
        """Serves until :meth:`BaseManager.shutdown` asks for the end, or the parent process is gone."""
        self._stop_with_parent()
        try:
            super().serve_forever()
        finally:
            self._stop_dispatching()


_StandardSharedMemoryServer: Any = globals()["SharedMemoryServer"]
_StandardSharedMemoryServer.__bases__ = (Server,)
_StandardSharedMemoryServer.public = [*_StandardSharedMemoryServer.public, *Server.public[-3:]]


# ------------------------------------------------------------------------------------------------ the manager

_StandardManager: Any = BaseManager
_start = _StandardManager.start
_finalize = _StandardManager._finalize_manager


def _start_server(self: Any, initializer: Any = None, initargs: Any = ()) -> None:
    """Starts the server process.

    Raises:
        ManagerDiedError: it ended before it could serve; its own traceback is on stderr.
    """
    try:
        _start(self, initializer, initargs)
    except EOFError:
        child = self._process
        child.join(5)
        raise ManagerDiedError(
            f"the server process of {type(self).__name__} (pid {child.pid}) ended with exit code {child.exitcode} before it "
            "could serve: its own message is on stderr"
        ) from None
    _lanes.started(self._address, self._process)


def _finalize_manager(child: Any, address: Any, *rest: Any) -> None:
    """Ends the server process, and removes what it had no time to remove."""
    _finalize(child, address, *rest)
    _lanes.shut_down(address, child)
    if isinstance(address, str):
        directory = os.path.dirname(address)
        if os.path.basename(directory).startswith(_DIRECTORY_PREFIX) and os.path.basename(address) == "manager":
            shutil.rmtree(directory, ignore_errors=True)


_StandardManager.start = _start_server
_StandardManager._finalize_manager = staticmethod(_finalize_manager)
_StandardManager._Server = Server

_listener_client["pickle"] = (_listener_client["pickle"][0], _lanes.connect)


# ------------------------------------------------------------------------------------------------ proxies


def _connect(self: Any) -> None:
    fresh = self._Client(self._token.address, authkey=self._authkey)
    if not hasattr(fresh, "call"):
        name = process.current_process().name
        if threading.current_thread() is not threading.main_thread():
            name += "|" + threading.current_thread().name
        _dispatch(fresh, None, "accept_connection", (name,))
        fresh = _lanes.SocketConnection(fresh, self._token.address)
    self._tls.connection = fresh


def _callmethod(self: Any, methodname: str, args: Any = (), kwds: Any = {}) -> Any:  # noqa: B006
    """Calls a method of the object, and returns a copy of what it returns.

    Raises:
        ManagerDiedError: the server is gone.
        RemoteError: the server could not make the call.
    """
    try:
        call = self._tls.connection.call
    except AttributeError:
        self._connect()
        call = self._tls.connection.call
    try:
        kind, result = call(self._id, methodname, args, kwds)
    except ManagerDiedError:
        vars(self._tls).pop("connection", None)
        raise
    if kind == "#RETURN":
        return result
    try:
        return _other_reply(self, kind, result)
    finally:
        del result  # break reference cycle


def _other_reply(self: Any, kind: str, result: Any) -> Any:
    if kind == "#HOLDERDIED":
        from .errors import HolderDiedWarning

        pid, value = result
        warnings.warn(
            f"process {pid} ended while it held this {self._token.typeid}, which is now yours: what it guards may be half done",
            HolderDiedWarning,
            stacklevel=4,
        )
        return value
    if kind == "#PROXY":
        exposed, token = result
        manager = self._manager
        registry = _registry_of(manager if manager is not None else SyncManager)
        token.address = self._token.address
        proxy = registry[token.typeid][-1](
            token, self._serializer, manager=manager, authkey=self._authkey, exposed=exposed
        )
        _release(self, token)
        return proxy
    try:
        raise _convert_to_error(kind, result)
    finally:
        del result  # break reference cycle


def _registry_of(manager: Any) -> Any:
    return manager._registry


def _release(proxy: Any, token: Any) -> None:
    """Takes back the reference that the server made for a proxy that has its own now."""
    if proxy._serializer == "pickle":
        _lanes.release(token.address, proxy._authkey, token.id)
        return
    stream = proxy._Client(token.address, authkey=proxy._authkey)
    _dispatch(stream, None, "decref", (token.id,))


def _decref(token: Any, authkey: bytes, state: Any, tls: Any, idset: Any, client: Any) -> None:
    idset.discard(token.id)
    if state is None or state.value == _State.STARTED:
        try:
            if client is _lanes.connect:
                _lanes.release(token.address, authkey, token.id)
            else:
                stream = client(token.address, authkey=authkey)
                _dispatch(stream, None, "decref", (token.id,))
        except Exception as error:
            util.debug("decref of %s failed: %s", token.id, error)
    if not idset and hasattr(tls, "connection"):
        tls.connection.close()
        del tls.connection


_StandardProxy: Any = BaseProxy
_StandardProxy._connect = _connect
_StandardProxy._callmethod = _callmethod
_StandardProxy._decref = staticmethod(_decref)


# ------------------------------------------------------------------------------------------------ objects with a log


def _open_replica(self: Any) -> Any:
    """The replica of the object, where its server is of this program and the object nobody else's; or None."""
    if type(self)._callmethod is not _callmethod:  # a subclass wants to see the calls
        return None
    shared = _ask_server(self, "open_replica")
    if shared is None:
        return None
    self._uses = 0
    return _shared_log.attach(self._replica_type, shared)


def _refill_replica(self: Any) -> None:
    _ask_server(self, "refill_replica")


def _ask_server(self: Any, name: str) -> Any:
    """What a function of the server returns about this proxy's object; None if the server has no such function."""
    if not hasattr(self._tls, "connection"):
        self._connect()
    fresh = self._tls.connection
    if not isinstance(fresh, _lanes.LaneConnection):
        return None
    kind, result = fresh.call(None, name, (self._id,), {})
    return result if kind == "#RETURN" else None


for _proxy, _methods in (
    (_DictProxy, DictMethods),
    (globals()["ListProxy"], ListMethods),
    (globals()["NamespaceProxy"], NamespaceMethods),
    (globals()["ValueProxy"], ValueMethods),
):
    for _name, _member in {**vars(_shared_log.Logged), **vars(_methods)}.items():
        if callable(_member) or _name in ("_replica", "_uses", "value"):
            setattr(_proxy, _name, _member)
    _proxy._open_replica = _open_replica
    _proxy._refill_replica = _refill_replica
