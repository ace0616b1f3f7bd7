"""A server process with one thread and little state, whose copies become children. An *own* module.

The program and its server share one socketpair, with no name in any file system and no listener that others could reach::

    any process of the program ──request: descriptors──▶ server ──the same──▶ spare, forked ahead: now the child
              ▲                                             │
              └──── status socket: pid and pidfd, later the exit code

A request carries the file to read the process object from, the other end of a status socket, and what the process object
needs. A child that has ended keeps its pid until whoever asked for it has taken note, as a child of its own would. Every child has the program's end of the socketpair as well, so that its own children come from the same server;
when the last copy of that end is closed, the server has nobody left to serve and exits. If the server is killed, what it
had started goes on (each child is watched by its pidfd), and the next request starts another server.
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import signal
import socket
import struct
import sys
import threading
from importlib import import_module

from . import _install, resource_tracker, spawn, util
from ._polyproc import Estate, accept_estate_of_server, leave
from .popen_fork import ATEXIT_RUNS, end_child
from .popen_spawn_posix import runnable, tracker_descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ensure_running", "get_inherited_fds", "connect_to_new_process", "set_forkserver_preload"]

#: How many descriptors fit in one message.
MAXFDS_TO_SEND = 250

#: What the server says on a status socket: the pid (or minus an errno), and later the exit code.
NUMBER = struct.Struct("q")

#: What a request says besides its descriptors: the tracker's descriptor is among them, or it is not.
WITH_TRACKER, WITHOUT_TRACKER = b"T", b"-"

PROGRAM = "from polyproc.forkserver import main; main(%d, %r, %r, %r, %r, %r, %r)"


class Newborn:
    """What the server tells of a child that it has started."""

    def __init__(self, pid: int, pidfd: int, status: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.status = status


class ForkServer:
    """This process's way to the server."""

    def __init__(self) -> None:
        self._forkserver_pid: int | None = None
        self._requests: socket.socket | None = None
        self._inherited_fds: list[int] | None = None
        self._lock = threading.Lock()
        self._preload_modules: list[str] = ["__main__"]
        self._preload_main = False
        util.register_after_fork(self, ForkServer._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def set_forkserver_preload(self, modules_names: list[str]) -> None:
        """Names the modules that the server imports before it serves."""
        if not all(type(name) is str for name in modules_names):
            raise TypeError(f"module_names must be a list of strings, not {modules_names!r}")
        self._preload_modules = modules_names
        self._preload_main = "__main__" in modules_names

    def get_inherited_fds(self) -> list[int] | None:
        """The descriptors that came with this process's birth; None if it was not started by the server."""
        return self._inherited_fds

    def connect_to_new_process(self, fds: list[int]) -> Newborn:
        """Has the server start a child that gets these descriptors. The first is where it reads its process object."""
        tracker = tracker_descriptor()
        if len(fds) + 3 > MAXFDS_TO_SEND:
            raise ValueError(f"too many fds: a process can be started with {MAXFDS_TO_SEND - 3} of them, not {len(fds)}")
        for attempt in 1, 2:
            self.ensure_running()
            assert self._requests is not None
            ours, theirs = _pair()
            try:
                with theirs:
                    word = WITHOUT_TRACKER if tracker is None else WITH_TRACKER
                    handed = [theirs.fileno(), self._requests.fileno()] + ([] if tracker is None else [tracker]) + fds
                    socket.send_fds(self._requests, [word], handed)
                return self._welcome(ours)
            except (BrokenPipeError, ConnectionError, EOFError):
                ours.close()  # the server died under our hands: another one will do it
                if attempt == 2:
                    raise
            except BaseException:
                ours.close()
                raise
        raise AssertionError("unreachable")

    @staticmethod
    def _welcome(status: socket.socket) -> Newborn:
        word, descriptors, _, _ = socket.recv_fds(status, NUMBER.size, 1)
        if not word:
            raise EOFError("the fork server died before it started the process")
        (pid,) = NUMBER.unpack(word)
        if pid < 0:
            raise OSError(-pid, f"the fork server could not start a process: {os.strerror(-pid)}")
        return Newborn(pid, descriptors[0], status.detach())

    def ensure_running(self) -> None:
        """Starts a server if there is none, or none any more. May be called from every process."""
        with self._lock:
            if self._requests is not None:
                if self._is_alive():
                    return
                self._forget()
            self._start()

    def _is_alive(self) -> bool:
        assert self._requests is not None
        poller = select.poll()
        poller.register(self._requests, 0)
        return not poller.poll(0)

    def _forget(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._forkserver_pid is not None:
            try:
                os.waitpid(self._forkserver_pid, 0)
            except ChildProcessError:
                pass  # another process's child, or collected by others
            self._forkserver_pid = None

    def _start(self) -> None:
        preload: list[str] = [name for name in self._preload_modules if name != "__main__"]
        data = spawn.get_preparation_data("ignore") if self._preload_modules else {}
        main_path = data.get("init_main_from_path")
        # The server takes part in the session, so that what it preloads and what its children are given is of one session.
        estate = Estate()
        memory, life, _ = estate.descriptors
        ours, theirs = _pair()
        try:
            with theirs:
                place = (memory, life, estate.participant)
                program = PROGRAM % (
                    theirs.fileno(), place, preload, _install.is_installed(), main_path, data.get("sys_path"),
                    self._preload_main,
                )  # fmt: skip
                executable = runnable(spawn.get_executable())
                command = [executable, *spawn.interpreter_flags(), "-c", program]
                handed = [theirs.fileno(), memory, life]
                self._forkserver_pid = util.spawnv_passfds(executable, command, handed)  # type: ignore[attr-defined]
        except BaseException:
            ours.close()
            raise
        finally:
            estate.close()
        self._requests = ours

    def _stop(self) -> None:
        """Lets the server end and waits for that; the tests of the standard library call it."""
        with self._lock:
            self._forget()


def main(
    requests_fd: int,
    place: tuple[int, int, int],
    preload: list[str],
    installed: bool,
    main_path: str | None = None,
    sys_path: list[str] | None = None,
    preload_main: bool = False,
) -> None:
    """What the server process does. ``place``: the session memory, the life descriptor, the name in the session."""
    accept_estate_of_server(*place)
    if installed:
        _install.install()
    _preload(preload, main_path if preload_main else None, sys_path)
    if main_path is not None:
        _compile_ahead(main_path)
    import_module("polyproc.popen_forkserver")  # each child looks into it
    gc.collect()
    gc.freeze()  # what the children share with the server, none of them looks through: that would copy its pages
    util._close_stdin()  # type: ignore[attr-defined]
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which ends us by leaving
    with _Socket(requests_fd) as requests:
        _Server(requests, interrupt).serve()
    os._exit(0)


def _preload(preload: list[str], main_path: str | None, sys_path: list[str] | None) -> None:
    if sys_path is not None:
        sys.path[:] = sys_path
    this: Any = util.process.current_process()  # type: ignore[attr-defined]
    try:
        if main_path is not None:
            this._inheriting = True
            try:
                spawn.import_main_path(main_path)
            finally:
                del this._inheriting
        for name in preload:
            try:
                __import__(name)
            except ImportError:
                pass  # preloading is a hint; the child that needs it will say so
    except Exception:
        sys.excepthook(*sys.exc_info())
    util._flush_std_streams()  # type: ignore[attr-defined]


def _compile_ahead(main_path: str) -> None:
    """Compiles the main module, which every child executes."""
    try:
        spawn.compiled(main_path)
    except (OSError, SyntaxError, ValueError):
        pass  # a child will say so


#: How long a spare child waits for the request that makes it a child, in milliseconds.
SPARE_WAITS = 1000


class _Spare:
    """A fork of the server that was made ahead of time, and waits to be told what it is to be."""

    def __init__(self, pid: int, pidfd: int, orders: socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.orders = orders


class _Server:
    """The server's loop: requests on one side, ends of children on the other.

    A fork takes about as long as everything else in a small child's life. So the server makes the next child while it has
    nothing else to do: it is a spare until a request is passed on to it. A spare has nothing of the server's open but its
    own socket, and ends when that is closed, however the server has ended.
    """

    def __init__(self, requests: socket.socket, interrupt: Any) -> None:
        self.requests = requests
        self.interrupt = interrupt
        self.poller = select.poll()
        self.poller.register(requests, select.POLLIN)
        self.spare: _Spare | None = None
        #: False after a while without a request, until the next one.
        self.is_asked = True
        #: pidfd of a child -> the status socket of whoever asked for it
        self.children: dict[int, socket.socket] = {}
        #: status socket -> pidfd, of children that have ended and whose end was told
        self.ended: dict[int, int] = {}

    def serve(self) -> None:
        while True:
            if self.is_asked:
                self.prepare_spare()
            ready = self.poller.poll(None if self.spare is None else SPARE_WAITS)
            if not ready:
                # Not kept for ever: tools that note every process of a program would wait for this one.
                self.dismiss_spare()
                self.is_asked = False
            for descriptor, _ in ready:
                if descriptor in self.ended:
                    self.collect(descriptor)
                elif descriptor in self.children:
                    self.report(descriptor)
                elif not self.accept():
                    self.dismiss_spare()
                    return

    def prepare_spare(self) -> None:
        """Sees to it that there is a spare, where the system allows it."""
        if self.spare is None:
            try:
                self.spare = self.fork_spare()
            except OSError:
                pass  # whoever asks for a child will be told

    def fork_spare(self) -> _Spare:
        orders, theirs = _pair()
        try:
            pid = os.fork()
            if pid == 0:
                orders.close()
                self.become_spare(theirs)
            return _Spare(pid, os.pidfd_open(pid), orders)
        except BaseException:
            orders.close()
            raise
        finally:
            theirs.close()

    def dismiss_spare(self) -> None:
        if self.spare is not None:
            self.spare.orders.close()
            os.waitid(os.P_PIDFD, self.spare.pidfd, os.WEXITED)
            os.close(self.spare.pidfd)
            self.spare = None

    def accept(self) -> bool:
        """Starts the child that is asked for. False when nobody is left who could ask."""
        word, descriptors, _, _ = socket.recv_fds(self.requests, 1, MAXFDS_TO_SEND)
        if not word:
            return False
        self.is_asked = True
        status = _Socket(descriptors.pop(0))
        try:
            child = self.pass_on(word, descriptors)
        except OSError as error:
            _tell(status, -(error.errno or 1))
            status.close()
            return True
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.children[child.pidfd] = status
        self.poller.register(child.pidfd, select.POLLIN)
        _tell(status, child.pid, child.pidfd)
        return True

    def pass_on(self, word: bytes, descriptors: list[int]) -> _Spare:
        """Makes the spare the child that is asked for, or a fresh one where the spare has been killed meanwhile."""
        self.prepare_spare()
        while True:
            spare, self.spare = self.spare or self.fork_spare(), None
            with spare.orders:
                try:
                    socket.send_fds(spare.orders, [word], descriptors)
                    return spare
                except ConnectionError:
                    os.waitid(os.P_PIDFD, spare.pidfd, os.WEXITED)
                except BaseException:
                    self.spare = spare
                    self.dismiss_spare()
                    raise
            os.close(spare.pidfd)

    def report(self, pidfd: int) -> None:
        """Tells whoever asked for a child how it ended."""
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        status = self.children[pidfd]
        _tell(status, ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)
        self.poller.unregister(pidfd)
        self.poller.register(status, select.POLLIN)
        self.ended[status.fileno()] = pidfd

    def collect(self, descriptor: int) -> None:
        """Whoever asked for a child knows that it has ended, or is gone: its pid may be given to another."""
        self.poller.unregister(descriptor)
        pidfd = self.ended.pop(descriptor)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        self.children.pop(pidfd).close()

    def become_spare(self, orders: socket.socket) -> None:
        """In the fork: closes what is the server's, and waits for the request that makes it a child. Never returns."""
        code = 1
        try:
            self.requests.close()
            for pidfd, status in self.children.items():
                os.close(pidfd)
                status.close()
            spawn.rehearse()
            with orders:
                word, descriptors, _, _ = socket.recv_fds(orders, 1, MAXFDS_TO_SEND)
            if word:
                code = self.become_child(word == WITH_TRACKER, descriptors)
            else:
                leave()
                os._exit(0)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
            util._flush_std_streams()  # type: ignore[attr-defined]
        finally:
            end_child(code)

    def become_child(self, with_tracker: bool, descriptors: list[int]) -> int:
        """Runs the process object; returns the exit code."""
        signal.signal(signal.SIGINT, self.interrupt)
        if ATEXIT_RUNS:
            atexit._clear()
            atexit.register(util._exit_function)  # type: ignore[attr-defined]
        _forkserver._requests = _Socket(descriptors[0])
        tracker = descriptors[1] if with_tracker else None
        resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]
        handed_down, *_forkserver._inherited_fds = descriptors[1 + with_tracker :]
        return spawn._main(handed_down)


def _tell(status: socket.socket, number: int, *descriptors: int) -> None:
    try:
        socket.send_fds(status, [NUMBER.pack(number)], descriptors)
    except ConnectionError:
        pass  # whoever asked is gone


class _Socket(socket.socket):
    """A socket that waits, whatever the program has set as its default timeout, and that may stay open to the very end."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(fileno=descriptor)
        self.settimeout(None)

    def __del__(self) -> None:
        self.close()  # without the warning of an unclosed socket


def _pair() -> tuple[_Socket, _Socket]:
    """Two connected sockets that keep messages apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return _Socket(ours.detach()), _Socket(theirs.detach())


_forkserver = ForkServer()
ensure_running = _forkserver.ensure_running
get_inherited_fds = _forkserver.get_inherited_fds
connect_to_new_process = _forkserver.connect_to_new_process
set_forkserver_preload = _forkserver.set_forkserver_preload


def __getattr__(name: str) -> Any:
    if name in ("read_signed", "write_signed"):  # of the standard library's protocol
        from ._borrowed import standard

        return getattr(standard("forkserver"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
