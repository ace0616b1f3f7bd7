#!/usr/bin/env python3
"""Runs the multiprocessing tests that an interpreter carries of its own against polyproc, unchanged.

    tools/conformance.py                                     # every suite, with the Python that runs this
    tools/conformance.py --python python3.13 --jobs 2
    tools/conformance.py --suite spawn --match TestQueue

Suites: fork, spawn, forkserver (CPython's large test module, by start method), main (how a child finds the main module),
futures (the process pools of concurrent.futures' tests). The interpreter must have its `test` package.

polyproc is put in place in a throw-away virtual environment, whose .pth file calls polyproc.install() at the first
`import multiprocessing`; so every interpreter that a test starts has it too. Nothing else is installed there. Before the
tests, interpreters and children of every kind are asked whose context they have: a run in which one of them has the
standard library's is not valid.

Each class runs in a process of its own. One that shows no progress for --limit seconds is killed: the test it was in has
failed, and the tests behind it are run anew. What a class leaves running is counted as a failure, and killed.

conformance/expected.txt names the tests that are expected to fail, each with the reason, and the reasons for which a
test may skip itself.

Exit status: 0 as expected, 1 failures, 2 the run says nothing (tests not installed, polyproc not in place, no such test).
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent / "conformance"
PACKAGE = HERE.parents[1] / "python" / "polyproc"
METHODS = ("fork", "spawn", "forkserver")
SUITES = (*METHODS, "main", "futures")
TOKEN = "POLYPROC_CONFORMANCE_RUN"

MODULE = """\
from test._test_multiprocessing import install_tests_in_module_dict

install_tests_in_module_dict(globals(), {method!r})
"""


class Invalid(Exception):
    """The run says nothing about polyproc."""


class Expectations:
    """What expected.txt says."""

    def __init__(self, text: str) -> None:
        self.failures: list[tuple[str, str]] = []
        self.skips: list[re.Pattern[str]] = []
        for line in text.splitlines():
            if line.startswith("skip:"):
                self.skips.append(re.compile(line.removeprefix("skip:").strip()))
            elif line.strip() and not line.startswith("#"):
                pattern, _, reason = line.partition(" ")
                self.failures.append((pattern, reason.strip()))

    def reason_to_fail(self, test: str) -> str | None:
        return next((reason for pattern, reason in self.failures if fnmatch.fnmatchcase(test, pattern)), None)

    def may_skip(self, why: str) -> bool:
        return any(pattern.search(why) for pattern in self.skips)


class Environment:
    """A virtual environment with polyproc in the place of multiprocessing, and nothing else."""

    def __init__(self, python: str, package: Path, scratch: Path) -> None:
        self.scratch = scratch
        if not list(package.glob("_polyproc*.so")):
            raise Invalid(f"polyproc is not built in {package}: run `make build`, or say --package")
        venv = scratch / "venv"
        made = run_quietly([python, "-m", "venv", "--without-pip", str(venv)])
        if made.returncode:
            raise Invalid(f"{python} cannot make a virtual environment: {(made.stderr or made.stdout).strip()[-300:]}")
        self.python = str(venv / "bin" / "python")
        answer = subprocess.check_output([self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
        site = Path(answer.strip())
        (site / "polyproc").symlink_to(package.resolve(), target_is_directory=True)
        shutil.copy(HERE / "worker.py", site / "conformance_worker.py")
        shutil.copy(HERE / "hook.py", site / "conformance_hook.py")
        (site / "conformance.pth").write_text("import conformance_hook\n")
        for method in METHODS:
            (site / f"conformance_{method}.py").write_text(MODULE.format(method=method))

    def work(self, limit: float, **job: Any) -> tuple[list[dict[str, Any]], str, str, int]:
        """Does one job: the lines it reported, how it ended if not well, its log, how many processes it left."""
        token = uuid.uuid4().hex
        home = self.scratch / token[:12]
        home.mkdir()
        report = home / "report"
        report.touch()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "POLYPROC_"))}
        environment |= {TOKEN: token, "TMPDIR": str(home)}
        program = f"import conformance_worker as w; w.main({json.dumps(job | {'limit': limit})!r}, {str(report)!r})"
        with open(home / "log", "w+", errors="replace") as log:
            process = subprocess.Popen(
                [self.python, "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=home,
                env=environment,
                start_new_session=True,
            )
            try:
                end = watch(process, report, limit)
            finally:
                left = clear(process, token, patience=5.0)
            log.seek(0)
            lines = [json.loads(line) for line in report.read_text().splitlines() if line.endswith("}")]
            text = log.read()
        shutil.rmtree(home, ignore_errors=True)
        return lines, end, text, left

    def ask(self, **job: Any) -> dict[str, Any]:
        lines, end, log, _ = self.work(120, **job)
        if not lines:
            raise Invalid(f"the job {job} did not answer ({end or 'it ended'}):\n{log[-3000:]}")
        return lines[0]


def run_quietly(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise Invalid(f"{command[0]} cannot be run: {error.strerror}") from None


def watch(process: subprocess.Popen[bytes], report: Path, limit: float) -> str:
    """Waits for a worker that shows progress by its report; how it ended, "" if well."""
    size, since = 0, time.monotonic()
    while True:
        try:
            code = process.wait(0.05)
        except subprocess.TimeoutExpired:
            if (now := report.stat().st_size) != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > limit:
                return f"no progress for {limit:g} s"
        else:
            return "" if code == 0 else f"the interpreter ended with {'signal' if code < 0 else 'status'} {abs(code)}"


def clear(process: subprocess.Popen[bytes], token: str, patience: float) -> int:
    """Kills what carries `token` in its environment; how many of them a finished worker had left running."""
    finished = process.poll() is not None
    deadline = time.monotonic() + (patience if finished else 0)
    while (left := carriers(token)) and time.monotonic() < deadline:
        time.sleep(0.05)
    count = len(left) if finished else 0
    while left:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.02)
        left = carriers(token)
    process.wait()
    return count


def carriers(token: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if token.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


class Run:
    """The results of one run, test by test."""

    def __init__(self, environment: Environment, expectations: Expectations, limit: float) -> None:
        self.environment = environment
        self.expectations = expectations
        self.limit = limit
        self.results: dict[str, dict[str, Any]] = {}
        self.bad: list[str] = []
        self.logs: dict[str, str] = {}

    def a_class(self, suite: str, name: str, tests: list[str]) -> None:
        """Runs the tests of one class, going on behind one that hung or died."""
        began = time.monotonic()
        waiting = list(tests)
        mine: dict[str, dict[str, Any]] = {}
        while waiting:
            lines, end, log, left = self.environment.work(self.limit, do="run", suite=suite, **{"class": name}, tests=waiting)
            current = None
            for line in lines:
                if "begins" in line:
                    current = line["begins"]
                elif "test" in line:
                    mine[line["test"]] = line
                    current = None
                elif "fixture" in line:
                    for test in tests:
                        mine.setdefault(test, line)
            ended = bool(lines) and "end_of_class" in lines[-1]
            if left:
                mine["(left behind)"] = {"how": "failed", "why": f"{left} processes still ran 5 s after the class"}
            if not ended or end:
                mine[current or "(end of class)"] = {"how": "failed", "why": end or "the interpreter ended before the class"}
            if (not ended or end) or any(line["how"] == "failed" for line in mine.values()):
                self.logs[f"{suite}/{name}"] = log
            before = len(waiting)
            waiting = [] if ended else [test for test in waiting if test not in mine]
            if len(waiting) == before:
                for test in waiting:
                    mine[test] = {"how": "failed", "why": "was not reached"}
                waiting = []
        for test, line in mine.items():
            self.results[f"{suite}/{name}.{test}"] = self.judged(f"{suite}/{name}.{test}", line)
        print(row(f"{suite}/{name}", [self.results[f"{suite}/{name}.{test}"] for test in mine], time.monotonic() - began), flush=True)

    def judged(self, test: str, line: dict[str, Any]) -> dict[str, Any]:
        how, why = line["how"], line.get("why", "")
        if how == "skipped" and not self.expectations.may_skip(why):
            how, why = "failed", f"skipped itself: {why}"
        if how == "failed" and (reason := self.expectations.reason_to_fail(test)):
            how, why = "as expected", reason
        return {**line, "how": how, "why": why}


def row(name: str, lines: list[dict[str, Any]], seconds: float) -> str:
    counts = collections.Counter(line["how"] for line in lines)
    order = (("passed", "passed"), ("failed", "FAILED"), ("as expected", "failed as expected"), ("skipped", "skipped"))
    text = ", ".join(f"{counts[how]} {words}" for how, words in order if counts[how])
    return f"{name:50s} {text:58s} {seconds:6.1f} s"


def check_that_it_is_polyproc(environment: Environment) -> str:
    answer = environment.ask(do="probe")
    wrong = {where: what for where, what in answer["found"].items() if what.partition(".")[0] != "polyproc"}
    if wrong:
        raise Invalid(f"polyproc is not in the place of multiprocessing: {wrong}")
    print(f"Python {answer['python']}: multiprocessing is polyproc in {', '.join(answer['found'])}")
    return str(answer["python"])


def conform(options: argparse.Namespace, scratch: Path) -> int:
    environment = Environment(options.python, options.package, scratch)
    lists: dict[str, dict[str, list[str]]] = {}
    chosen = options.suite or list(SUITES)
    for suite in chosen:
        answer = environment.ask(do="list", suite=suite)
        if "missing" in answer:
            if suite != "futures" or options.suite:
                raise Invalid(f"not installed: {options.python} has no tests for the suite {suite!r}: {answer['missing']}")
            print(f"futures: not installed with {options.python} ({answer['missing']}), and not run")
            continue
        lists[suite] = {
            name: wanted
            for name, tests in answer["classes"].items()
            if (wanted := [test for test in tests if fnmatch.fnmatchcase(f"{suite}/{name}.{test}", f"*{options.match}*")])
        }
    if not any(lists.values()):
        raise Invalid(f"no test matches {options.match!r}")
    python = check_that_it_is_polyproc(environment)
    run = Run(environment, Expectations((HERE / "expected.txt").read_text()), options.limit)
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        jobs = [pool.submit(run.a_class, suite, name, tests) for suite, found in lists.items() for name, tests in found.items()]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if options.json:
        options.json.write_text(json.dumps({"python": python, "tests": run.results}, indent=1))
    return tell(run, list(lists), python, time.monotonic() - began, options.verbose)


def tell(run: Run, suites: list[str], python: str, seconds: float, verbose: bool) -> int:
    print(f"\nPython {python}")
    for suite in suites:
        lines = [line for test, line in run.results.items() if test.startswith(f"{suite}/")]
        print(row(suite, lines, sum(line.get("seconds", 0.0) for line in lines)))
    print(row("all", list(run.results.values()), seconds))
    failed = {test: line for test, line in sorted(run.results.items()) if line["how"] == "failed"}
    for test, line in sorted(run.results.items()):
        if line["how"] in ("failed", "as expected"):
            print(f"{line['how'] if line['how'] == 'as expected' else 'FAILED':12s} {test}: {line['why']}")
    if verbose:
        for name in dict.fromkeys(test.partition(".")[0] for test in failed):
            print(f"\n-- log of {name}\n{run.logs.get(name, '').strip()[-4000:]}")
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="the interpreter whose tests are run, and that runs them")
    parser.add_argument("--package", type=Path, default=PACKAGE, metavar="DIR", help="polyproc, built")
    parser.add_argument("--suite", action="append", choices=SUITES, help="only this one; may be given several times")
    parser.add_argument("--match", default="", metavar="PATTERN", help="only tests whose SUITE/CLASS.TEST holds this")
    parser.add_argument("--limit", type=float, default=180.0, metavar="SECONDS", help="a class may show no progress for so long")
    parser.add_argument("--jobs", type=int, default=2, help="classes that run at the same time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every result, for machines")
    parser.add_argument("--verbose", action="store_true", help="the logs of the classes that failed, too")
    options = parser.parse_args()
    options.python = shutil.which(options.python) or options.python
    return options


def interrupted(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, interrupted)
    scratch = Path(tempfile.mkdtemp(prefix="polyproc-conformance-"))
    try:
        return conform(options, scratch)
    except Invalid as reason:
        print(f"conformance: {reason}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
