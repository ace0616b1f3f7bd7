"""What an installed polyproc must do, in any interpreter: run by tools/wheel.py in a fresh environment of each."""

from __future__ import annotations

import os
import subprocess
import sys

import polyproc


def double(number: int) -> int:
    return 2 * number


def report(queue: polyproc.queues.Queue[int]) -> None:  # type: ignore[name-defined]
    queue.put(os.getpid())


def processes() -> None:
    for method in ("fork", "spawn", "forkserver"):
        context = polyproc.get_context(method)
        queue = context.Queue()
        process = context.Process(target=report, args=(queue,))
        process.start()
        assert queue.get(timeout=30) == process.pid, method
        process.join(30)
        assert process.exitcode == 0, (method, process.exitcode)


def pools() -> None:
    for method in ("fork", "spawn"):
        with polyproc.get_context(method).Pool(2) as pool:
            assert pool.map(double, range(100)) == list(range(0, 200, 2)), method


def programs() -> None:
    code = "import multiprocessing as m; print(type(m.get_context()).__module__)"
    for command in (["-m", "polyproc", "-c", code], ["-c", f"import polyproc; polyproc.install(); {code}"]):
        answer = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60)
        assert answer.stdout.strip() == "polyproc.context", (command, answer)


def metadata() -> None:
    from importlib.metadata import metadata as of

    about = of("polyproc")
    assert about["Version"] == polyproc.__version__
    extras = set(about.get_all("Provides-Extra") or ())
    assert {"progress", "cloudpickle", "numpy"} <= extras, extras
    assert len(about.get_all("License-File") or ()) >= 2, "the licences are not in the wheel"
    assert "polyproc" in (about.get_payload() or about["Description"]), "no long description"
    assert "site-packages" in polyproc.__file__, polyproc.__file__


if __name__ == "__main__":
    processes()
    pools()
    programs()
    metadata()
    print(f"polyproc {polyproc.__version__}: processes by fork, spawn, forkserver; queues; pools; -m polyproc; install()")
