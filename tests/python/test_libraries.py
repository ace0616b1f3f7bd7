"""Libraries and tools that reach into multiprocessing: they find what they reach for."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

METHODS = ["fork", "spawn", "forkserver"]

JOBLIB = """
import polyproc; polyproc.install()
import os, sys
import numpy
from joblib import Parallel, delayed, parallel_config

def double(x):
    return 2 * x, os.getpid()

def total(array):
    return float(array.sum())

if __name__ == "__main__":
    with parallel_config(backend=sys.argv[1], n_jobs=2):
        results = Parallel()(delayed(double)(number) for number in range(50))
        assert [value for value, _ in results] == list(range(0, 100, 2))
        assert os.getpid() not in {pid for _, pid in results}
        assert Parallel()(delayed(total)(numpy.ones(300_000)) for _ in range(3)) == [3e5] * 3
        try:
            Parallel()(delayed(double)(None) for _ in range(2))
        except TypeError as error:
            print("raised", type(error).__name__)
"""


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_joblib_works(backend: str, run_script: Callable[..., Any]) -> None:
    pytest.importorskip("joblib")
    answer = run_script(JOBLIB, backend)
    assert (answer.stdout, answer.returncode) == ("raised TypeError\n", 0), answer


TRACED = """
import sys
import polyproc

def only_in_the_child(number):
    doubled = 2 * number
    return doubled

if __name__ == "__main__":
    process = polyproc.get_context(sys.argv[1]).Process(target=only_in_the_child, args=(1,))
    process.start()
    process.join()
    print(process.exitcode)
"""

COVERAGE = "[run]\nconcurrency = multiprocessing\nparallel = true\nsource = .\n"


@pytest.mark.parametrize("method", METHODS)
def test_coverage_measures_children(method: str, run_script: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("coverage")
    (tmp_path / ".coveragerc").write_text(COVERAGE)
    answer = run_script(TRACED, method, before=["-m", "coverage", "run"])
    assert (answer.stdout, answer.stderr) == ("0\n", "")
    for command in (["combine", "-q"], ["json", "-q", "-o", "report.json"]):
        subprocess.run([sys.executable, "-m", "coverage", *command], cwd=tmp_path, check=True, timeout=60)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["files"]["script.py"]["missing_lines"] == []


@pytest.mark.parametrize("method", METHODS)
def test_viztracer_traces_children(method: str, run_script: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("viztracer")
    answer = run_script(TRACED, method, before=["-m", "viztracer", "--quiet", "-o", "trace.json"])
    assert answer.stdout.strip().splitlines()[0] == "0", answer
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any("only_in_the_child" in event["name"] for event in events)


LOGGING = """
import logging, sys
import polyproc

def speak():
    logger = polyproc.get_logger()
    logger.info("heard of the child")
    logger.debug("not heard")
    sys.exit(logger.getEffectiveLevel())

if __name__ == "__main__":
    if sys.argv[2] == "stderr":
        polyproc.log_to_stderr(logging.INFO)
    else:
        polyproc.get_logger().setLevel(logging.WARNING)
    process = polyproc.get_context(sys.argv[1]).Process(target=speak, name="talker")
    process.start()
    process.join()
    print(process.exitcode)
"""


@pytest.mark.parametrize("method", METHODS)
def test_the_loggers_level_and_its_handler_reach_children(method: str, run_script: Callable[..., Any]) -> None:
    answer = run_script(LOGGING, method, "stderr")
    assert answer.stdout == f"{logging.INFO}\n", answer
    assert "[INFO/talker] heard of the child\n" in answer.stderr
    assert "not heard" not in answer.stderr


@pytest.mark.parametrize("method", METHODS)
def test_a_level_without_a_handler_reaches_children_too(method: str, run_script: Callable[..., Any]) -> None:
    answer = run_script(LOGGING, method, "quiet")
    assert (answer.stdout, answer.stderr) == (f"{logging.WARNING}\n", "")


EXECUTABLE = """
import os, sys
import polyproc

def tell():
    print(os.environ.get("STARTED_BY"), flush=True)

if __name__ == "__main__":
    polyproc.freeze_support()  # does nothing here
    polyproc.set_executable(sys.argv[2])
    process = polyproc.get_context(sys.argv[1]).Process(target=tell)
    process.start()
    process.join()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_are_started_by_the_executable_that_was_set(method: str, run_script: Callable[..., Any], tmp_path: Path) -> None:
    wrapper = tmp_path / "python-of-ours"
    wrapper.write_text(f'#!/bin/sh\nSTARTED_BY=wrapper exec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    answer = run_script(EXECUTABLE, method, str(wrapper))
    assert (answer.stdout, answer.stderr) == ("wrapper\n", "")


PRELOAD = """
import sys
import polyproc

def tell():
    print("heavy" in sys.modules, sys.modules["heavy"].imported_in == __import__("os").getpid(), flush=True)

if __name__ == "__main__":
    polyproc.set_forkserver_preload(["heavy", "module_that_is_not_there"])
    for _ in range(2):
        process = polyproc.get_context("forkserver").Process(target=tell)
        process.start()
        process.join()
"""


def test_the_fork_server_imports_once_what_it_is_told_to(run_script: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import os\nimported_in = os.getpid()\n")
    answer = run_script(PRELOAD)
    assert (answer.stdout, answer.stderr) == ("True False\n" * 2, "")


def test_functions_of_a_notebook_run_in_children() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("cloudpickle")
    notebook = nbformat.v4.new_notebook()
    source = (
        "import polyproc\n"
        "def double(number): return 2 * number\n"
        f"for method in {METHODS}:\n"
        "    with polyproc.get_context(method).Pool(1) as pool: print(pool.map(double, [1, 2]))\n"
    )
    notebook.cells = [nbformat.v4.new_code_cell(source)]
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert "".join(output["text"] for output in notebook.cells[0].outputs) == "[2, 4]\n" * 3
