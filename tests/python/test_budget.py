"""The budget of shared memory, as a program sees it."""

from __future__ import annotations

import os
import subprocess
import sys

FILL = """
import polyproc as mp
queue = mp.Queue()
try:
    while True:
        queue.put(bytes(1_000_000))
except OSError as error:
    print(error.errno, error)
kept = queue.qsize()
print(kept, all(len(queue.get()) == 1_000_000 for _ in range(kept)))
queue.put(bytes(1_000_000))
print(len(queue.get()))
"""


def run(budget: str, program: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, POLYPROC_MEMORY_BUDGET=budget)
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)


def test_a_budget_that_is_used_up_is_an_error_with_the_figures_and_nothing_is_lost():
    done = run("10M", FILL)
    assert done.returncode == 0, done.stderr
    full, kept, again = done.stdout.splitlines()
    assert full.startswith("28 ") and "1000000 bytes were asked for" in full and "of 10485760 bytes" in full
    assert kept == "10 True"
    assert again == "1000000"


def test_a_budget_that_is_no_number_is_named():
    done = run("plenty", "import polyproc as mp; mp.Lock()")
    assert done.returncode == 1
    assert 'ValueError: POLYPROC_MEMORY_BUDGET="plenty" is not a number of bytes' in done.stderr
