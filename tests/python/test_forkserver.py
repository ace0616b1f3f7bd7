"""The fork server: what it makes ahead of time, and what becomes of that when somebody dies."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import until

import polyproc as mp
from polyproc import forkserver

TIME = 20.0
CONTEXT: Any = mp.get_context("forkserver")

#: Rewrites itself between two starts, in the same length; the second child is to run what is in the file then.
CHANGING = """\
import os
import polyproc
WORD = "1st"
def say():
    print(WORD, flush=True)
if __name__ == "__main__":
    context = polyproc.get_context("forkserver")
    for word in "2nd", "3rd":
        child = context.Process(target=say)
        child.start()
        child.join(30)
        text = open(__file__).read().replace(WORD, word)
        with open(__file__, "w") as file:
            file.write(text)
        status = os.stat(__file__)
        os.utime(__file__, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        WORD = word
"""


def run_one() -> int | None:
    process = CONTEXT.Process(target=os.getpid)
    process.start()
    process.join(TIME)
    code: int | None = process.exitcode
    return code


@pytest.fixture
def server() -> int:
    """The pid of a server of this test's own that has nothing to do but to keep a spare."""
    forkserver._forkserver._stop()
    assert run_one() == 0
    pid = forkserver._forkserver._forkserver_pid
    assert pid is not None
    return pid


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def spare_of(server: int) -> int:
    """Waits until the server has its next child ready: the one that it has when it sleeps."""
    for _ in range(10_000):
        children = children_of(server)
        waits = Path(f"/proc/{server}/wchan").read_text() or "0"
        if len(children) == 1 and (waits == "0" or "poll" in waits):
            return children[0]
        if not children:  # it was idle for too long: it keeps another after the next request
            assert run_one() == 0
        os.sched_yield()
    raise AssertionError(f"the fork server {server} has these children: {children}")


def assert_ends(pidfd: int) -> None:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll(TIME * 1000)
    os.close(pidfd)


def test_a_spare_that_was_killed_is_replaced(server: int) -> None:
    spare = spare_of(server)
    pidfd = os.pidfd_open(spare)
    os.kill(spare, signal.SIGKILL)
    assert_ends(pidfd)
    assert run_one() == 0
    assert spare_of(server) != spare
    assert forkserver._forkserver._forkserver_pid == server


def test_an_idle_server_keeps_no_spare(server: int) -> None:
    until(lambda: not children_of(server))
    assert run_one() == 0


def test_the_spare_goes_with_a_server_that_is_stopped(server: int) -> None:
    pidfd = os.pidfd_open(spare_of(server))
    forkserver._forkserver._stop()
    assert_ends(pidfd)


def test_the_spare_goes_with_a_server_that_is_killed(server: int) -> None:
    pidfd = os.pidfd_open(spare_of(server))
    os.kill(server, signal.SIGKILL)
    assert_ends(pidfd)
    assert run_one() == 0


def test_many_at_once_are_more_than_the_spare(server: int) -> None:
    processes = [CONTEXT.Process(target=os.getpid) for _ in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIME)
    assert [process.exitcode for process in processes] == [0] * 5


def test_a_child_runs_the_main_module_as_it_is_now(tmp_path: Path) -> None:
    script = tmp_path / "changing.py"
    script.write_text(CHANGING)
    answer = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (answer.stdout, answer.stderr) == ("1st\n2nd\n", "")
