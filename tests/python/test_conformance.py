"""CPython's own multiprocessing tests under fork, and those of the main module: the part that fits the time of every run.

``make conformance`` runs all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import polyproc

RUNNER = Path(__file__).resolve().parents[2] / "tools" / "conformance.py"


def conformance(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUNNER), "--package", os.path.dirname(polyproc.__file__), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def has_tests() -> None:
    answer = subprocess.run([sys.executable, "-c", "import test._test_multiprocessing"], capture_output=True, text=True)
    if answer.returncode:
        pytest.skip(f"{sys.executable} is installed without its test package: {answer.stderr.strip().splitlines()[-1]}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("suite", ["fork", "main"])
@pytest.mark.usefixtures("has_tests")
def test_cpythons_tests_pass(suite: str) -> None:
    answer = conformance("--suite", suite, "--limit", "90", "--verbose")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_a_run_without_any_test_says_nothing() -> None:
    answer = conformance("--suite", "fork", "--match", "NoSuchTest")
    assert answer.returncode == 2
    assert "no test matches" in answer.stderr or "not installed" in answer.stderr


def test_an_interpreter_that_cannot_be_run_is_not_passed(tmp_path: Path) -> None:
    answer = conformance("--python", str(tmp_path / "python"), "--suite", "fork")
    assert answer.returncode == 2
    assert answer.stdout == ""


@pytest.fixture
def without_tests(tmp_path: Path) -> Path:
    """This Python once more, installed without its `test` package, as many distributions have it."""
    binary = tmp_path / "bin" / "python3"
    library = tmp_path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    binary.parent.mkdir()
    library.mkdir(parents=True)
    shutil.copy2(Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}"), binary)
    for entry in Path(os.__file__).parent.iterdir():
        if entry.name not in ("test", "site-packages"):
            (library / entry.name).symlink_to(entry)
    return binary


@pytest.mark.parametrize("suites", [(), ("--suite", "fork")])
def test_an_interpreter_without_tests_is_not_passed(without_tests: Path, suites: tuple[str, ...]) -> None:
    answer = subprocess.run([without_tests, "-c", "import os, test"], capture_output=True, text=True)
    if "No module named 'test'" not in answer.stderr:
        pytest.skip(f"a copy of this Python is none without tests: {answer}")
    answer = conformance("--python", str(without_tests), *suites)
    assert answer.returncode == 2, answer
    assert "not installed" in answer.stderr and "'fork'" in answer.stderr
    assert "passed" not in answer.stdout
