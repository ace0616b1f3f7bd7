#!/usr/bin/env python3
"""Builds the wheel and the source archive, and tries them in a fresh environment of every CPython from 3.11 on.

    tools/wheel.py --maturin .venv/bin/maturin --out build/dist [--python PYTHON ...] [--no-sdist-install]

Interpreters are python3.11 to python3.15 on the PATH, those under pyenv, and those named by --python. One line for each.
Exit status 1 if any of them fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "tests" / "wheel" / "smoke.py"
INTERFACE = ROOT / "tests" / "wheel" / "interface.py"
MINORS = range(11, 16)

ABOUT = (
    "import sys, json, sysconfig; print(json.dumps([sys.implementation.name, sys.version_info[:2] >= (3, 11), "
    "sys.version.split()[0], sys.base_prefix, bool(sysconfig.get_config_var('Py_GIL_DISABLED'))]))"
)


def candidates(named: list[str]) -> Iterator[str]:
    yield from named
    for minor in MINORS:
        if path := shutil.which(f"python3.{minor}"):
            yield path
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip()
        yield from map(str, sorted(Path(root).glob("versions/3.*/bin/python3"))) if root else ()


def interpreters(named: list[str]) -> dict[str, str]:
    """``{path: version}`` of every CPython with a GIL from 3.11 on, each installation once."""
    found: dict[str, tuple[str, str]] = {}
    for path in candidates(named):
        try:
            answer = subprocess.run([path, "-c", ABOUT], capture_output=True, text=True, timeout=30)
        except OSError:
            continue
        if answer.returncode:  # a shim of pyenv without a version behind it
            continue
        name, new_enough, version, prefix, free_threaded = json.loads(answer.stdout)
        if name == "cpython" and new_enough and not free_threaded:
            found.setdefault(prefix, (path, version))
    return dict(found.values())


def build(maturin: str, out: Path) -> tuple[Path, Path]:
    shutil.rmtree(out, ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("CONDA_PREFIX", "VIRTUAL_ENV")}
    subprocess.run([maturin, "build", "--release", "--out", str(out)], cwd=ROOT, env=environment, check=True)
    subprocess.run([maturin, "sdist", "--out", str(out)], cwd=ROOT, env=environment, check=True)
    wheels, archives = list(out.glob("*.whl")), list(out.glob("*.tar.gz"))
    if len(wheels) != 1 or len(archives) != 1 or "-cp311-abi3-" not in wheels[0].name:
        raise SystemExit(f"expected one abi3 wheel and one source archive in {out}: {[p.name for p in wheels + archives]}")
    return wheels[0], archives[0]


def attempt(python: str, artefact: Path) -> str:
    """Installs `artefact` into a fresh environment and runs the smoke test: "" if all is well, else what was not."""
    with tempfile.TemporaryDirectory(prefix="polyproc-wheel-") as scratch:
        inside = str(Path(scratch, "venv", "bin", "python"))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "POLYPROC_"))}
        environment["CARGO_TARGET_DIR"] = str(ROOT / "target" / "sdist")
        steps = (
            [python, "-m", "venv", str(Path(scratch, "venv"))],
            [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(artefact)],
            [inside, str(SMOKE)],
            [inside, str(INTERFACE)],
        )
        for step in steps:
            try:
                answer = subprocess.run(step, cwd=scratch, env=environment, capture_output=True, text=True, timeout=900)
            except subprocess.TimeoutExpired:
                return f"{' '.join(step)}: not done after 900 s"
            if answer.returncode:
                return f"{' '.join(step)}:\n{(answer.stdout + answer.stderr).strip()[-3000:]}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--maturin", default="maturin")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "dist")
    parser.add_argument("--python", action="append", default=[], help="an interpreter to try as well")
    parser.add_argument("--no-sdist-install", action="store_true", help="do not compile from the source archive")
    options = parser.parse_args()
    wheel, archive = build(shutil.which(options.maturin) or options.maturin, options.out.resolve())
    found = interpreters(options.python)
    if not found:
        raise SystemExit("no CPython from 3.11 on was found: say --python PATH")
    tries = [(path, version, wheel) for path, version in found.items()]
    if not options.no_sdist_install:
        tries.append((*next(iter(found.items())), archive))
    failed = 0
    print()
    for path, version, artefact in tries:
        problem = attempt(path, artefact)
        failed += bool(problem)
        print(f"{'FAILED' if problem else 'ok':6s} {version:9s} {path}  {artefact.name}", flush=True)
        if problem:
            print(problem)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
