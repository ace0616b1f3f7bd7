"""CPython's own multiprocessing tests under fork, and those of the main module: the part that fits the time of every run.

``make conformance`` runs all of them.
"""

from __future__ import annotations

import os
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


def test_an_interpreter_without_tests_is_not_passed(tmp_path: Path) -> None:
    """Stands in for one: a Python that cannot be run has no tests either."""
    answer = conformance("--python", str(tmp_path / "python"), "--suite", "fork")
    assert answer.returncode == 2
    assert answer.stdout == ""
