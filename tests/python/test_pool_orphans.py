"""What is left of a pool whose program is killed: nothing, helpers included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TIME

#: Seconds in which everything is to be gone after the parent's death.
GONE = 2.0

PROGRAM = """
import sys, time
import polyproc

polyproc.install()

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def work(seconds):
    time.sleep(seconds)
    return seconds


if __name__ == "__main__":
    kind, method, load = sys.argv[1:]
    context = multiprocessing.get_context(method)
    if kind == "Pool":
        pool = context.Pool(2)
        pool.map(work, [0.01] * 4, chunksize=1)
        busy = [pool.apply_async(work, (60,)) for _ in range(4)] if load == "busy" else []
    else:
        pool = ProcessPoolExecutor(2, mp_context=context)
        list(pool.map(work, [0.01] * 4))
        busy = [pool.submit(work, 60) for _ in range(4)] if load == "busy" else []
    print("ready", flush=True)
    time.sleep(60)
"""


def members(session: int) -> list[str]:
    """Who lives in a session, by name and pid."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
            line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        state, _, _, in_session = stat.rpartition(")")[2].split()[:4]
        if int(in_session) == session and state not in "ZX":
            found.append(f"{entry}: {line[:100]}")
    return found


@pytest.mark.parametrize("load", ["idle", "busy"])
@pytest.mark.parametrize("kind", ["Pool", "ProcessPoolExecutor"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_nothing_outlives_a_killed_program(kind: str, method: str, load: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    program = subprocess.Popen(
        [sys.executable, str(script), kind, method, load],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert program.stdout is not None and program.stdout.readline() == "ready\n"
        assert len(members(program.pid)) >= 3
        program.kill()
        program.wait(TIME)
        killed = time.monotonic()
        while (left := members(program.pid)) and time.monotonic() < killed + GONE:
            time.sleep(0.02)
        assert not left
    finally:
        for member in members(program.pid):
            os.kill(int(member.partition(":")[0]), signal.SIGKILL)
        program.kill()
        program.wait(TIME)
        if program.stdout is not None:
            program.stdout.close()
