"""Libraries and tools that reach into multiprocessing: they find what they reach for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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
