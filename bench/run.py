"""polyproc beside the standard library of the same interpreter, in one run.

    make bench                              # everything
    make bench BENCH="--quick --match queue"
    make bench BENCH="--json build/bench.json"

Each measurement is taken in a fresh process, in pairs: polyproc, multiprocessing, polyproc, multiprocessing, ... so
that whatever else the machine does falls on both. Printed are the medians and how many times better the first is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median

try:
    from measure import MEASUREMENTS, Measurement
except ModuleNotFoundError as error:
    sys.exit(f"error: the benchmarks need {error.name}: run them with `make bench`, which installs what they need")

HERE = Path(__file__).resolve().parent
PATIENCE = 60.0


class Failed(Exception):
    """A measurement came to nothing; the message is the last line that it wrote."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 pairs of 0.2 s each, and nothing that takes long, for a first look")
    parser.add_argument("--pairs", type=int, metavar="N", help="pairs of runs for each measurement (default 5)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of one run (default 0.3)")
    parser.add_argument("--match", metavar="TEXT", help="only measurements with TEXT in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single figure there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a required ratio is missed")
    parser.add_argument("--impl", default="polyproc", metavar="MODULE", help="what is measured (default polyproc)")
    parser.add_argument("--beside", default="multiprocessing", metavar="MODULE", help="what it is compared with")
    parser.add_argument("--list", action="store_true", help="name the measurements and stop")
    given = parser.parse_args()
    given.pairs = given.pairs or (3 if given.quick else 5)
    given.seconds = given.seconds or (0.2 if given.quick else 0.3)
    return given


def measure(module: str, name: str, seconds: float) -> float:
    command = [sys.executable, str(HERE / "measure.py"), module, name, str(seconds)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, complaint = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no answer within {PATIENCE:.0f} s") from error
    finally:
        # Whatever it has started is in its process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        raise Failed((complaint.strip().splitlines() or [f"exit status {process.returncode}"])[-1])
    return float(out)


def figure(value: float, unit: str) -> str:
    if unit.endswith("/s") and value >= 1e6 and unit != "MB/s":
        return f"{value / 1e6:.2f}M {unit}"
    if unit.endswith("/s") and value >= 1e4 and unit != "MB/s":
        return f"{value / 1e3:.0f}k {unit}"
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def row(what: str, ours: str, theirs: str, ratio: str, required: str, verdict: str) -> str:
    return f"{what:<36}{ours:>18}{theirs:>18}{ratio:>10}{required:>10}  {verdict}".rstrip()


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def compare(chosen: Measurement, given: argparse.Namespace) -> dict[str, object]:
    figures: dict[str, list[float]] = {given.impl: [], given.beside: []}
    if chosen.most is not None:
        del figures[given.beside]
    for number in range(1 if chosen.long else given.pairs):
        for module, found in figures.items():
            progress(f"{chosen.what}: {module}, {number + 1} of {given.pairs}")
            found.append(measure(module, chosen.name, given.seconds))
    progress("")
    ours = median(figures[given.impl])
    if chosen.most is not None:
        return {"unit": chosen.unit, "figures": figures, "ours": ours, "most": chosen.most}
    theirs = median(figures[given.beside])
    ratio = ours / theirs if chosen.more_is_better else theirs / ours
    return {"unit": chosen.unit, "figures": figures, "ours": ours, "theirs": theirs, "ratio": ratio,
            "required": chosen.required}  # fmt: skip


def is_wanted(chosen: Measurement) -> bool:
    return chosen.required is not None or chosen.most is not None


def verdict(chosen: Measurement, result: dict[str, object]) -> tuple[str, bool | None]:
    """The line of a result, and whether it is what was wanted; None where nothing is."""
    ours, theirs, ratio = (float(str(result.get(key, "nan"))) for key in ("ours", "theirs", "ratio"))
    if chosen.most is not None:
        reached = ours <= chosen.most
        wanted, said = f"<= {chosen.most:g}", "ok" if reached else "over"
        return row(chosen.what, figure(ours, chosen.unit), "", "", wanted, said), reached
    figures = figure(ours, chosen.unit), figure(theirs, chosen.unit), f"{ratio:.2f}"
    if chosen.required is None:
        return row(chosen.what, *figures, "", ""), None
    reached = ratio >= chosen.required
    return row(chosen.what, *figures, f"{chosen.required:g}", "ok" if reached else "short"), reached


def main() -> int:
    given = arguments()
    chosen = [measurement for measurement in MEASUREMENTS if not given.match or given.match in measurement.name]
    chosen = [measurement for measurement in chosen if not (given.quick and measurement.long)]
    if given.list or not chosen:
        print("\n".join(f"{measurement.name:<24}{measurement.what}, {measurement.unit}" for measurement in MEASUREMENTS))
        if not given.list:
            print(f"error: no measurement has '{given.match}' in its name; above are all of them", file=sys.stderr)
        return 0 if given.list else 2

    cpus = len(os.sched_getaffinity(0))
    machine = f"Python {platform.python_version()}, {cpus} CPUs, Linux {platform.release()} {platform.machine()}"
    print(f"{machine}; medians of {given.pairs} interleaved pairs of {given.seconds:g} s, each in a fresh process\n")
    load = os.getloadavg()[0]
    if load > cpus / 2:
        print(f"note: the load is {load:.1f}: other programs are running, and single figures will be off\n")
    print(row("", given.impl, given.beside, "ratio", "wanted", ""))
    results: dict[str, object] = {}
    short: list[str] = []
    failed: list[str] = []
    for measurement in chosen:
        try:
            result = compare(measurement, given)
        except Failed as error:
            progress("")
            failed.append(measurement.name)
            results[measurement.name] = {"failed": str(error)}
            print(f"{measurement.what:<36}  failed: {error}", flush=True)
            continue
        results[measurement.name] = result
        line, reached = verdict(measurement, result)
        if reached is False:
            short.append(measurement.name)
        print(line, flush=True)

    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        table = {"machine": machine, "pairs": given.pairs, "seconds": given.seconds, "results": results}
        given.json.write_text(json.dumps(table, indent=1) + "\n")
    wanted_in_all = sum(is_wanted(measurement) for measurement in chosen)
    reached = wanted_in_all - len(short) - sum(is_wanted(m) and m.name in failed for m in chosen)
    print(f"\nratio: how many times better than {given.beside}; {reached} of {wanted_in_all} wanted are reached")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed or (given.strict and short) else 0


if __name__ == "__main__":
    sys.exit(main())
