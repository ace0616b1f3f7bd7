#!/usr/bin/env python3
"""Runs well-known programs that start processes, unchanged, on polyproc and on the standard library: same output?

    tools/real_programs.py [--only NAME]

Run by the Python of an environment with requirements/real-programs.txt and polyproc. Each program gets a small input made
on the spot, in a directory that has the same path in both runs. Compared: exit status, what it printed, and every file
that it wrote. Exit status 1 on any difference, and where a program fails in both.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent / "real_programs"


@dataclass(frozen=True)
class Program:
    """A command line behind ``python``, and what it needs."""

    name: str
    kind: str
    arguments: list[str]
    module: str
    prepare: Callable[[Path], None] = field(default=lambda place: None)
    exit_status: int = 0
    environment: dict[str, str] = field(default_factory=dict)


def sources(place: Path) -> None:
    """A package of modules that a formatter and a linter find fault with."""
    package = place / "shop"
    package.mkdir()
    (package / "__init__.py").write_text('"""A shop."""\n')
    for number in range(8):
        text = f'''\
            """Module {number}."""
            import sys, os
            import collections
            from shop import *
            def  price_{number}( a,b = {number} ):
                unused = [x  for x in range( a )]
                return {{ 'a':a , "b" : b }}
            class thing_{number} :
                def go(self,x): return  x==None
            '''
        (package / f"module_{number}.py").write_text(textwrap.dedent(text))


def documentation(place: Path) -> None:
    (place / "conf.py").write_text('project = "Shop"\nextensions = []\nhtml_last_updated_fmt = None\n')
    names = [f"page_{number}" for number in range(12)]
    (place / "index.rst").write_text("Shop\n====\n\n.. toctree::\n\n" + "".join(f"   {name}\n" for name in names))
    for name in names:
        (place / f"{name}.rst").write_text(f"{name}\n{'=' * len(name)}\n\n.. _{name}:\n\nSee :ref:`page_0` and **{name}**.\n")


def script(name: str) -> Callable[[Path], None]:
    def copy(place: Path) -> None:
        shutil.copy(HERE / name, place / name)

    return copy


PROGRAMS = [
    Program("black", "formatter", ["-m", "black", "--workers", "2", "shop"], "black", sources),
    # Quiet: the standard library's pool at times ends workers before they have written what they printed.
    Program("isort", "import sorter", ["-m", "isort", "-q", "-j", "2", "shop"], "isort", sources),
    Program("pylint", "linter", ["-m", "pylint", "-j", "2", "--score=n", "shop"], "pylint", sources, 28),
    Program("flake8", "linter", ["-m", "flake8", "-j", "2", "shop"], "flake8", sources, 1),
    Program(
        "sphinx", "documentation", ["-m", "sphinx", "-j", "2", "-b", "html", ".", "out"], "sphinx", documentation,
        environment={"SOURCE_DATE_EPOCH": "1700000000"},
    ),  # fmt: skip
    Program("compileall", "compiler", ["-m", "compileall", "-j", "2", "--invalidation-mode", "unchecked-hash", "shop"], "compileall", sources),
    Program("grid search, loky", "machine learning", ["grid_search.py", "loky"], "sklearn", script("grid_search.py")),
    Program("grid search, multiprocessing", "machine learning", ["grid_search.py", "multiprocessing"], "sklearn", script("grid_search.py")),
    Program("gensim LdaMulticore", "topic model", ["topics.py"], "gensim", script("topics.py")),
    Program("emcee", "sampler", ["sampler.py"], "emcee", script("sampler.py")),
]


@dataclass
class Ending:
    status: int
    printed: str
    files: dict[str, bytes]
    seconds: float


#: What differs from one run of the same program to the next.
VARYING = [(re.compile(r"\bin \d+\.\d+ ?s(econds)?"), "in TIME"), (re.compile(r"\b0x[0-9a-f]{6,}\b"), "ADDRESS")]
LEFT_OUT = re.compile(r"(^|/)(\.doctrees|\.mypy_cache|home|environment\.pickle)(/|$)")


def run(program: Program, on_polyproc: bool, place: Path) -> Ending:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    program.prepare(place)
    (place / "home").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "POLYPROC_"))}
    environment |= {"HOME": str(place / "home"), "XDG_CACHE_HOME": str(place / "home"), "PYTHONHASHSEED": "0"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "WHOSE": "polyproc" if on_polyproc else "multiprocessing"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"} if program.name != "compileall" else {}
    command = [sys.executable, *(["-m", "polyproc"] if on_polyproc else []), *program.arguments]
    began = time.monotonic()
    answer = subprocess.run(
        command, cwd=place, env=environment | program.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180
    )
    seconds = time.monotonic() - began
    files = {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and not LEFT_OUT.search(str(path.relative_to(place)))
    }
    return Ending(answer.returncode, tidy(answer.stdout.decode(errors="replace")), files, seconds)


def tidy(text: str) -> str:
    """What was printed, without figures of time and addresses, and without an order between processes."""
    for pattern, instead in VARYING:
        text = pattern.sub(instead, text)
    return "\n".join(sorted(re.split(r"[\r\n]+", text)))


def difference(program: Program, one: Ending, other: Ending) -> str:
    if one.status != other.status:
        return f"exit status {one.status}, with the standard library {other.status}:\n{one.printed[-2000:]}"
    if one.printed != other.printed:
        return f"printed\n{one.printed[-2000:]}\nand with the standard library\n{other.printed[-2000:]}"
    if one.files != other.files:
        names = [name for name in one.files.keys() | other.files.keys() if one.files.get(name) != other.files.get(name)]
        return f"wrote other files: {sorted(names)[:10]}"
    if one.status != program.exit_status:
        return f"failed in both, with exit status {one.status}:\n{one.printed[-2000:]}"
    return ""


def compare(program: Program, place: Path) -> tuple[str, float, float]:
    try:
        standard = run(program, False, place)
        ours = run(program, True, place)
    except subprocess.TimeoutExpired as error:
        return f"not done after {error.timeout:g} s: {' '.join(map(str, error.cmd))}\n{(error.stdout or b'')[-2000:]!r}", 0.0, 0.0
    return difference(program, ours, standard), ours.seconds, standard.seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="NAME", help="programs whose name holds this")
    options = parser.parse_args()
    rows, failed = [], 0
    scratch = Path(tempfile.mkdtemp(prefix="polyproc-real-programs-"))
    try:
        for program in (one for one in PROGRAMS if options.only in one.name):
            if importlib.util.find_spec(program.module) is None:
                verdict, ours, standard = f"{program.module} is not installed", 0.0, 0.0
            else:
                verdict, ours, standard = compare(program, scratch / "place")
            failed += bool(verdict)
            rows.append((program, "DIFFERENT" if verdict else "same", ours, standard))
            print(f"{program.name}: {verdict or 'same'}", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"\n{'program':30s} {'kind':18s} {'output':10s} {'polyproc':>10s} {'standard':>10s}")
    for program, verdict, ours, standard in rows:
        print(f"{program.name:30s} {program.kind:18s} {verdict:10s} {ours:8.1f} s {standard:8.1f} s")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
