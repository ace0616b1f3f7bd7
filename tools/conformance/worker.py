"""What runs inside the interpreter under test: finds the tests, runs one class of them, says which package it met.

Started by ``tools/conformance.py`` as ``python -c "import conformance_worker; conformance_worker.main(...)"`` from the
throw-away environment. Each job writes lines of JSON to a file, so that what was known before a death is not lost.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import time
import unittest
from typing import Any

METHODS = ("fork", "spawn", "forkserver")


def main(job_text: str, path: str) -> None:
    """Does one job: ``probe``, ``list`` or ``run``."""
    job = json.loads(job_text)
    with open(path, "a", encoding="utf-8") as file:
        report = Report(file)
        if job["do"] == "probe":
            report.line(**probe())
        elif job["do"] == "list":
            try:
                report.line(classes={name: [test._testMethodName for test in tests] for name, tests in classes(job["suite"]).items()})
            except unittest.SkipTest as reason:
                report.line(missing=f"its tests skip themselves as a whole: {reason}")
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] != "test":
                    raise
                report.line(missing=f"no module {error.name}")
        else:
            run(job, report)


class Report:
    """Lines of JSON, written by this process only: a test forks."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.pid = os.getpid()

    def line(self, **entry: object) -> None:
        if os.getpid() == self.pid:
            self.file.write(json.dumps(entry) + "\n")
            self.file.flush()


# -- is it polyproc that is tested?


def whose() -> str:
    """The module of the default context, as a program would get it."""
    import multiprocessing

    return type(multiprocessing.get_context()).__module__


def write_whose(path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(whose())


def probe() -> dict[str, Any]:
    """Whose the context is: here, in plain interpreters, and in children of every start method."""
    import multiprocessing

    found = {"here": whose(), "Process": multiprocessing.Process.__module__, "Queue": type(multiprocessing.Queue()).__module__}
    for flags in ([], ["-E"], ["-I"]):
        answer = subprocess.run(
            [sys.executable, *flags, "-c", "import conformance_worker as w; print(w.whose())"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        found["python " + " ".join([*flags, "-c"])] = answer.stdout.strip() or answer.stderr.strip()[-200:]
    for method in METHODS:
        path = os.path.abspath(f"whose-{method}")
        process = multiprocessing.get_context(method).Process(target=write_whose, args=(path,))
        process.start()
        process.join(60)
        try:
            with open(path, encoding="utf-8") as file:
                found[f"child by {method}"] = file.read()
        except OSError as error:
            found[f"child by {method}"] = f"no answer: {error}"
    return {"found": found, "python": sys.version.split()[0]}


# -- the tests


def classes(suite: str) -> dict[str, list[unittest.TestCase]]:
    """The tests of one suite by class, in the order in which they are defined."""
    found: dict[str, list[unittest.TestCase]] = {}
    for name in modules(suite):
        for test in flat(unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(name))):
            kind = type(test).__name__
            if suite != "futures" or kind.startswith("ProcessPool"):
                found.setdefault(kind, []).append(test)
    return found


def modules(suite: str) -> list[str]:
    importlib.import_module("test._test_multiprocessing")
    if suite in METHODS:
        return [f"conformance_{suite}"]
    if suite == "main":
        return ["test.test_multiprocessing_main_handling"]
    package = importlib.import_module("test.test_concurrent_futures")
    if not hasattr(package, "__path__"):
        return [package.__name__]
    return [f"{package.__name__}.{one.name}" for one in pkgutil.iter_modules(package.__path__) if one.name.startswith("test_")]


def flat(suite: Any) -> list[unittest.TestCase]:
    if isinstance(suite, unittest.TestSuite):
        return [test for part in suite for test in flat(part)]
    return [suite]


def run(job: dict[str, Any], report: Report) -> None:
    import faulthandler

    from test import support  # type: ignore[import-not-found]

    for name in ("SHORT_TIMEOUT", "LONG_TIMEOUT"):  # as CPython's own runner does where the time is limited
        setattr(support, name, min(getattr(support, name), job["limit"] / 2))
    faulthandler.enable()
    tests = [test for test in classes(job["suite"])[job["class"]] if test._testMethodName in job["tests"]]
    unittest.TestSuite(tests).run(Outcome(report, job["limit"]))
    report.line(end_of_class=True)


class Outcome(unittest.TestResult):
    """Writes down how each test ended."""

    def __init__(self, report: Report, limit: float) -> None:
        super().__init__()
        self.report = report
        self.limit = limit

    def startTest(self, test: unittest.TestCase) -> None:
        import faulthandler

        super().startTest(test)
        self.how, self.why, self.began = "passed", "", time.monotonic()
        faulthandler.dump_traceback_later(self.limit * 0.9, file=sys.__stderr__)
        self.report.line(begins=test._testMethodName)

    def stopTest(self, test: unittest.TestCase) -> None:
        import faulthandler

        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        seconds = round(time.monotonic() - self.began, 2)
        self.report.line(test=test._testMethodName, how=self.how, why=self.why, seconds=seconds)

    def _note(self, test: Any, how: str, why: str) -> None:
        if isinstance(test, unittest.TestCase) or hasattr(test, "test_case"):
            if self.how != "failed":
                self.how, self.why = how, why
        else:  # a setUpClass or setUpModule: no test of the class begins
            self.report.line(fixture=str(test), how=how, why=why)

    def addError(self, test: Any, err: Any) -> None:
        import traceback

        traceback.print_exception(*err)
        lines = "".join(traceback.format_exception_only(err[0], err[1])).strip().splitlines()
        self._note(test, "failed", lines[0][:200])

    addFailure = addError

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.addError(subtest, err)

    def addSkip(self, test: Any, reason: str) -> None:
        self._note(test, "skipped", reason)

    def addUnexpectedSuccess(self, test: Any) -> None:
        self._note(test, "failed", "was expected to fail, and passed")
