"""What several tests need: each start method in turn, and processes that have ended when their test has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import polyproc as mp

#: Far more than anything here takes, in seconds.
TIME = 20.0


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def context(request: pytest.FixtureRequest) -> Any:
    return mp.get_context(request.param)


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Starts processes, and sees to it that each has ended when the test has."""
    started: list[Any] = []

    def start(context: Any, target: Callable[..., object], *args: object, **options: Any) -> Any:
        process = context.Process(target=target, args=args, **options)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        if process.is_alive():
            process.kill()
        process.join(TIME)
        assert process.exitcode is not None


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a text as a script in a fresh interpreter, in a directory of its own."""

    def run(text: str, *arguments: str, before: Sequence[str] = (), **options: Any) -> subprocess.CompletedProcess[str]:
        (tmp_path / "script.py").write_text(text)
        command = [sys.executable, *before, "script.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, **options)

    return run


@pytest.fixture
def pool() -> Iterator[Any]:
    with mp.Pool(2) as pool:
        yield pool


def until(come: Callable[[], object]) -> None:
    """Looks again and again until something has come."""
    end = time.monotonic() + TIME
    while not come():
        assert time.monotonic() < end, "it did not come in time"
        os.sched_yield()


def until_it_sleeps(pid: int) -> None:
    """Looks until the process sleeps."""

    def state() -> str:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]

    until(lambda: state() == "S")


def kill(process: Any) -> None:
    """Kills a process, and sees it end of that."""
    os.kill(process.pid, signal.SIGKILL)
    process.join(TIME)
    assert process.exitcode == -signal.SIGKILL
