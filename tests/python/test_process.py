"""Processes: how they start, what they are told, how they end, and what their end leaves."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import polyproc as mp
from polyproc import process as processes
from polyproc.connection import wait

TIME = 20.0
METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> Any:
    return mp.get_context(request.param)


def is_gone(pid: int) -> bool:
    """True once no such process runs: it does not exist, or has ended and waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def gone_within(pid: int, seconds: float) -> bool:
    """Waits for the end of a process that need not be a child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------ start and end


def tell(connection: Any) -> None:
    this, parent = mp.current_process(), mp.parent_process()
    assert parent is not None
    connection.send((this.name, this.pid, bool(this.daemon), parent.pid, parent.name, parent.is_alive(), mp.get_start_method()))


def test_a_child_knows_itself_its_parent_and_the_start_method(context: Any, start: Callable[..., Any]) -> None:
    ours, theirs = context.Pipe()
    child = start(context, tell, theirs, name="a name", daemon=True)
    expected = ("a name", child.pid, True, os.getpid(), mp.current_process().name, True, context.get_start_method())
    assert ours.recv() == expected
    child.join(TIME)
    assert child.exitcode == 0
    assert not child.is_alive()


def fail() -> None:
    raise LookupError("nothing there")


@pytest.mark.parametrize(
    ("target", "args", "code"),
    [
        (os.getpid, (), 0),
        (sys.exit, (3,), 3),
        (sys.exit, (), 0),
        (sys.exit, ("a message",), 1),
        (os._exit, (4,), 4),
        (fail, (), 1),
        (signal.raise_signal, (signal.SIGKILL,), -signal.SIGKILL),
    ],
)
def test_the_exit_code_tells_how_a_child_ended(
    context: Any, start: Callable[..., Any], target: Callable[..., object], args: tuple[Any, ...], code: int
) -> None:
    child = start(context, target, *args)
    child.join(TIME)
    assert child.exitcode == code
    assert is_gone(child.pid)


def test_join_gives_up_in_time_and_the_sentinel_is_readable_at_the_end(context: Any, start: Callable[..., Any]) -> None:
    ours, theirs = context.Pipe()
    child = start(context, theirs.recv)
    began = time.monotonic()
    child.join(0.1)
    assert 0.1 <= time.monotonic() - began < TIME
    assert child.exitcode is None
    assert not wait([child.sentinel], 0)
    ours.send("go")
    assert wait([child.sentinel], TIME) == [child.sentinel]
    child.join(TIME)
    assert child.exitcode == 0
    assert wait([child.sentinel], 0) == [child.sentinel]


def test_a_child_can_be_joined_by_several_threads(start: Callable[..., Any]) -> None:
    ours, theirs = mp.Pipe()
    child = start(mp, theirs.recv)
    codes: list[int | None] = []

    def join() -> None:
        child.join(TIME)
        codes.append(child.exitcode)

    threads = [threading.Thread(target=join) for _ in range(4)]
    for thread in threads:
        thread.start()
    ours.send("go")
    for thread in threads:
        thread.join(TIME)
    assert codes == [0, 0, 0, 0]


@pytest.mark.parametrize("timeout", ["2", b"2", [1], {}])
def test_a_timeout_that_is_no_number_is_refused(start: Callable[..., Any], timeout: Any) -> None:
    child = start(mp, time.sleep, 60)
    with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
        child.join(timeout)


def test_terminate_and_kill_end_a_child(context: Any, start: Callable[..., Any]) -> None:
    for end, number in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
        child = start(context, time.sleep, 600)
        getattr(child, end)()
        child.join(TIME)
        assert child.exitcode == -number
        getattr(child, end)()  # does nothing to whoever has that pid now


def test_a_closed_process_says_so_and_gives_its_descriptors_back(context: Any, start: Callable[..., Any]) -> None:
    warm = context.Process(target=os.getpid)
    warm.start()
    warm.join(TIME)
    warm.close()
    before = len(os.listdir("/proc/self/fd"))
    child = context.Process(target=time.sleep, args=(600,))
    child.start()
    with pytest.raises(ValueError, match="still running"):
        child.close()
    child.kill()
    child.join(TIME)
    child.close()
    with pytest.raises(ValueError, match="closed"):
        child.join()
    del child
    # The supervisor drops its own hold on the child once it has seen the end as well.
    end = time.monotonic() + TIME
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < end:
        threading.Event().wait(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_an_exit_status_that_somebody_else_collected_is_still_told(start: Callable[..., Any]) -> None:
    child = start(mp, sys.exit, 7)
    assert wait([child.sentinel], TIME)
    os.waitpid(child.pid, 0)
    child.join(TIME)
    # The supervisor may have seen it before; where nobody has, and the kernel keeps no copy, it is the "unknown" of 255.
    assert child.exitcode in (7, 255)


def test_children_that_the_kernel_collects_do_not_hang_their_parent(start: Callable[..., Any]) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = start(mp, sys.exit, 7)
        child.join(TIME)
        assert child.exitcode in (7, 255)
        assert not child.is_alive()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_child_that_was_collected_before_it_could_be_watched_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    from polyproc import popen_fork

    def too_late(pid: int, *_: object) -> None:
        os.waitpid(pid, 0)
        raise ProcessLookupError

    monkeypatch.setattr(popen_fork, "Child", too_late)
    child = mp.get_context("fork").Process(target=sys.exit, args=(7,))
    child.start()
    child.join(TIME)
    assert (child.exitcode, child.is_alive()) == (255, False)
    assert mp.connection.wait([child.sentinel], TIME) == [child.sentinel]
    child.terminate()
    child.close()


def start_one(connection: Any, method: str) -> None:
    child = mp.get_context(method).Process(target=connection.send, args=("hello",))
    child.start()
    child.join()
    sys.exit(child.exitcode)


@pytest.mark.parametrize("inner", METHODS)
def test_children_have_children(context: Any, start: Callable[..., Any], inner: str) -> None:
    ours, theirs = context.Pipe()
    child = start(context, start_one, theirs, inner)
    assert ours.recv() == "hello"
    child.join(TIME)
    assert child.exitcode == 0


def test_no_thread_and_no_session_before_there_is_a_need() -> None:
    code = "import os, polyproc; print(len(os.listdir('/proc/self/task')), os.path.realpath('/proc/self/fd/3'))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("1 ") and "memfd" not in told


# ------------------------------------------------------------------------------------------------ orphans


def test_a_default_timeout_of_the_programs_sockets_is_none_of_ours(context: Any, start: Callable[..., Any]) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.001)
    try:
        child = start(context, time.sleep, 0.1)
        child.join(TIME)
        assert child.exitcode == 0
    finally:
        socket.setdefaulttimeout(before)


def have_child(method: str, connection: Any) -> None:
    child = mp.get_context(method).Process(target=time.sleep, args=(600,))
    child.start()
    connection.send(child.pid)
    time.sleep(600)


def test_children_and_grandchildren_end_soon_after_a_killed_parent(context: Any, start: Callable[..., Any]) -> None:
    ours, theirs = context.Pipe()
    child = start(context, have_child, context.get_start_method(), theirs)
    grandchild = ours.recv()
    child.kill()
    assert gone_within(grandchild, 4), "it outlived its parent"


def test_children_may_be_kept(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYPROC_ORPHANS", "keep")
    ours, theirs = mp.Pipe()
    child = start(mp, have_child, "fork", theirs)
    grandchild = ours.recv()
    child.kill()
    child.join(TIME)
    try:
        assert not gone_within(grandchild, 2.5), "it was not kept"
    finally:
        os.kill(grandchild, signal.SIGKILL)
        assert gone_within(grandchild, TIME)


def watch_parent(connection: Any) -> None:
    parent = mp.parent_process()
    assert parent is not None
    connection.send(parent.is_alive())
    parent.join()
    connection.send(parent.is_alive())


def have_watcher(method: str, connection: Any) -> None:
    mp.get_context(method).Process(target=watch_parent, args=(connection,)).start()
    time.sleep(600)


def test_who_waits_for_its_parent_is_woken_at_once(context: Any, start: Callable[..., Any]) -> None:
    ours, theirs = context.Pipe()
    child = start(context, have_watcher, context.get_start_method(), theirs)
    assert ours.recv() is True
    began = time.monotonic()
    child.kill()
    assert ours.recv() is False
    assert time.monotonic() - began < 1


def ignore_and_wait(connection: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send(os.getpid())
    time.sleep(600)


def have_stubborn_child(connection: Any) -> None:
    mp.Process(target=ignore_and_wait, args=(connection,)).start()
    time.sleep(600)


def test_a_child_that_ignores_sigterm_is_killed(start: Callable[..., Any]) -> None:
    ours, theirs = mp.Pipe()
    child = start(mp, have_stubborn_child, theirs)
    grandchild = ours.recv()
    child.kill()
    assert gone_within(grandchild, 4)


# ------------------------------------------------------------------------------------------------ what can go wrong


def add(one: Any, two: Any, *, three: Any = None) -> None:
    pass


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((1, threading.Lock()), {}, r"argument 1 \(args\[1\]\), of type 'lock'"),
        ((1, 2), {"three": sys._getframe()}, "keyword argument 'three', of type 'frame'"),
    ],
)
def test_an_argument_that_cannot_be_pickled_is_named(
    method: str, args: tuple[Any, ...], kwargs: dict[str, Any], named: str
) -> None:
    process = mp.get_context(method).Process(target=add, args=args, kwargs=kwargs, name="summer")
    with pytest.raises((TypeError, ValueError, AttributeError), match=rf"(?s){named}.*'summer'.*'{method}'"):
        process.start()
    assert process not in mp.active_children()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_lambda_can_be_a_target_where_cloudpickle_is_installed(method: str, start: Callable[..., Any]) -> None:
    pytest.importorskip("cloudpickle")
    context = mp.get_context(method)
    ours, theirs = context.Pipe()
    factor = 21
    child = start(context, lambda connection, number: connection.send(factor * number), theirs, 2)
    assert ours.recv() == 42
    child.join(TIME)
    assert child.exitcode == 0


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_connection_can_be_given_twice(method: str, start: Callable[..., Any]) -> None:
    context = mp.get_context(method)
    ours, theirs = context.Pipe()
    child = start(context, send_if_same, theirs, [theirs])
    assert ours.recv() == "sent"
    child.join(TIME)
    assert child.exitcode == 0


def send_if_same(one: Any, others: list[Any]) -> None:
    others[0].send("sent" if one is others[0] else "not the same")


def test_the_number_of_descriptors_is_the_same_after_a_start_that_failed() -> None:
    context = mp.get_context("spawn")
    before = None
    for _ in range(3):
        with pytest.raises(TypeError):
            context.Process(target=add, args=(threading.Lock(), 1)).start()
        now = len(os.listdir("/proc/self/fd"))
        assert before in (None, now)
        before = now


def test_a_python_that_cannot_be_executed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from polyproc import spawn

    before = spawn.get_executable()
    mp.set_executable("/nowhere/python")
    try:
        with pytest.raises(FileNotFoundError, match="'/nowhere/python'.*set_executable"):
            mp.get_context("spawn").Process(target=add).start()
    finally:
        mp.set_executable(before)


def test_a_child_that_cannot_import_its_main_module_says_so(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, polyproc as mp\n"
        "if __name__ == '__mp_main__':\n"
        "    import no_such_module\n"
        "def work(): pass\n"
        "if __name__ == '__main__':\n"
        "    p = mp.get_context('spawn').Process(target=work, name='worker')\n"
        "    p.start(); p.join(); print(p.exitcode)\n"
    )
    told = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    assert told.stdout == "1\n"
    assert "no_such_module" in told.stderr
    assert "process 'worker' (pid " in told.stderr
    assert f"could not import its main module '{program}'" in told.stderr


def test_start_methods_are_named_where_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'teleport'.*'spawn', 'forkserver' and 'fork'"):
        mp.get_context("teleport")
    code = "import polyproc; print(polyproc.get_start_method())"
    for method, status in (("spawn", 0), ("teleport", 1)):
        environment = os.environ | {"POLYPROC_START_METHOD": method}
        told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert (told.returncode, told.stdout) == (status, "spawn\n" if status == 0 else "")
    assert "POLYPROC_START_METHOD=teleport: cannot find context for 'teleport'" in told.stderr


def test_the_start_method_is_set_once() -> None:
    code = (
        "import polyproc as mp\n"
        "assert mp.get_start_method(allow_none=True) is None\n"
        "mp.set_start_method('spawn')\n"
        "try: mp.set_start_method('fork')\n"
        "except RuntimeError as error: print(error)\n"
        "mp.set_start_method('fork', force=True)\n"
        "print(mp.get_start_method(), mp.get_all_start_methods())\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = told.stdout.splitlines()
    assert first == "context has already been set"
    assert second.startswith("fork [")


# ------------------------------------------------------------------------------------------------ living with others


def test_tools_that_replace_the_bootstrap_see_every_child(monkeypatch: pytest.MonkeyPatch, start: Callable[..., Any]) -> None:
    ours, theirs = mp.Pipe()
    bootstrap = processes.BaseProcess._bootstrap  # type: ignore[attr-defined]

    def measured(self: Any, *args: Any, **kwargs: Any) -> Any:
        theirs.send(self.name)
        return bootstrap(self, *args, **kwargs)

    monkeypatch.setattr(processes.BaseProcess, "_bootstrap", measured)
    child = start(mp.get_context("fork"), os.getpid, name="measured")
    assert ours.recv() == "measured"
    child.join(TIME)


def test_functions_registered_at_fork_run_in_our_forks_too(start: Callable[..., Any]) -> None:
    code = (
        "import os, polyproc as mp\n"
        "os.register_at_fork(before=lambda: print('before', flush=True),\n"
        "    after_in_child=lambda: print('child', flush=True), after_in_parent=lambda: None)\n"
        "p = mp.get_context('fork').Process(target=print, args=('run',)); p.start(); p.join()\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["before", "child", "run"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="earlier versions do not warn of threads at a fork")
def test_a_fork_warns_of_the_users_threads_only(start: Callable[..., Any]) -> None:
    start(mp.get_context("fork"), time.sleep, 600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        start(mp.get_context("fork"), os.getpid)


def test_a_user_fork_in_a_process_with_children_is_harmless(start: Callable[..., Any]) -> None:
    child = start(mp.get_context("fork"), time.sleep, 600)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            inner = mp.get_context("fork").Process(target=os.write, args=(writer, b"inner"))
            inner.start()
            inner.join()
            os._exit(0 if inner.exitcode == 0 else 1)
        finally:
            os._exit(2)
    assert os.read(reader, 5) == b"inner"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert child.is_alive()
    os.close(reader)
    os.close(writer)


def test_a_program_that_closes_all_descriptors_can_still_start_children() -> None:
    code = (
        "import os, polyproc as mp\n"
        "lock, queue = mp.Lock(), mp.Queue()\n"
        "def work(number):\n"
        "    with lock: queue.put(number)\n"
        "first = mp.Process(target=work, args=(1,)); first.start(); first.join()\n"
        "os.closerange(3, 256)\n"
        "mine = [os.open('/dev/null', os.O_RDONLY) for _ in range(20)]\n"
        "before = [os.fstat(fd).st_rdev for fd in mine]\n"
        "second = mp.Process(target=work, args=(2,)); second.start(); second.join()\n"
        "assert [os.fstat(fd).st_rdev for fd in mine] == before\n"
        "print(queue.get(), queue.get(), first.exitcode, second.exitcode)\n"
    )
    environment = os.environ | {"POLYPROC_START_METHOD": "fork"}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert (told.stdout, told.stderr) == ("1 2 0 0\n", "")


def tell_of_an_interrupt(ready: Any) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    ready.set()
    sys.exit(signal.sigwait({signal.SIGINT}) == signal.SIGINT and 7)


def test_a_process_can_be_interrupted_as_by_ctrl_c(context: Any, start: Callable[..., Any]) -> None:
    ready = context.Event()
    child = start(context, tell_of_an_interrupt, ready)
    assert ready.wait(TIME)
    child._popen.interrupt()  # what Process.interrupt() of Python 3.14 calls
    child.join(TIME)
    assert child.exitcode == 7
