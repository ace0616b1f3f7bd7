"""Measurements of beginnings: processes by each start method, and the import of the package."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from yardstick import Bench, Measurement, now

STARTING = Path(__file__).with_name("starting.py")

INSTALL = "import time; import polyproc; start = time.perf_counter(); polyproc.install(); print(time.perf_counter() - start)"


def start_join(bench: Bench, method: str) -> float:
    """Process(target=nothing), start, join: the median, in ms."""
    command = [sys.executable, str(STARTING), bench.mp.__name__, method, str(bench.seconds)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def took(*arguments: str) -> float:
    """ms that an interpreter takes from its start to its end."""
    start = now()
    subprocess.run([sys.executable, *arguments], check=True)
    return (now() - start) * 1e3


def longer(bench: Bench, one: list[str], other: list[str]) -> float:
    """By how many ms an interpreter takes longer for one thing than for the other: the median of pairs."""
    end = now() + max(bench.seconds, 0.5)
    times = [took(*one) - took(*other)]  # the first reads the files
    while len(times) < 11 or now() < end:
        times.append(took(*one) - took(*other))
    return median(times[1:])


def import_longer(bench: Bench) -> float:
    """`import polyproc` over `import multiprocessing`: ms."""
    return longer(bench, ["-c", "import polyproc"], ["-c", "import multiprocessing"])


def install(bench: Bench) -> float:
    """`polyproc.install()` after `import polyproc`: ms."""
    command = [sys.executable, "-c", INSTALL]
    return 1e3 * median(float(subprocess.check_output(command)) for _ in range(10))


def run_longer(bench: Bench) -> float:
    """`python -m polyproc script.py` over `python script.py`, of a script that imports multiprocessing: ms."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write("import multiprocessing\n")
        script.flush()
        return longer(bench, ["-m", "polyproc", script.name], [script.name])


STARTS = (
    Measurement("start_join_fork", "Process: start and join, fork", "ms", lambda b: start_join(b, "fork")),
    Measurement("start_join_spawn", "Process: start and join, spawn", "ms", lambda b: start_join(b, "spawn"), required=0.95),
    Measurement(
        "start_join_forkserver", "Process: start, join, forkserver", "ms", lambda b: start_join(b, "forkserver"), required=3
    ),
    Measurement("import", "import, over the other's", "ms", import_longer, most=5),
    Measurement("install", "install()", "ms", install, most=5),
    Measurement("run", "python -m polyproc, over python", "ms", run_longer, most=10),
)
