"""python -m polyproc: a program gets what python itself would give it."""

from __future__ import annotations

import py_compile
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TELL = """
'''The program's own words.'''
import sys
loader = type(__loader__).__name__
print([sys.argv, __name__, __file__, getattr(__spec__, "name", None), __package__, sys.path[0], __doc__, loader])
print(sorted(name for name in globals() if name not in ("__cached__",)))
sys.exit(3)
"""

WORK = """
import multiprocessing as mp
import sys

def double(number):
    return 2 * number, type(mp.get_context()).__module__

if __name__ == "__main__":
    for method in mp.get_all_start_methods():
        with mp.get_context(method).Pool(2) as pool:
            print(method, pool.map(double, range(3)))
"""


def run(directory: Path, *command: str | Path, polyproc: bool, stdin: str = "") -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "polyproc"] if polyproc else [sys.executable]
    return subprocess.run([*launcher, *command], capture_output=True, text=True, timeout=60, cwd=directory, input=stdin)


def same(directory: Path, *command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a program both ways, compares all that can be seen, and gives what was seen."""
    ours = run(directory, *command, polyproc=True, stdin=stdin)
    theirs = run(directory, *command, polyproc=False, stdin=stdin)
    assert (ours.stdout, ours.stderr, ours.returncode) == (theirs.stdout, theirs.stderr, theirs.returncode)
    return ours


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "tell.py").write_text(TELL)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "__main__.py").write_text(TELL)
    (tmp_path / "package" / "inner.py").write_text(TELL)
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        archive.writestr("__main__.py", TELL)
    py_compile.compile(str(tmp_path / "tell.py"), cfile=str(tmp_path / "compiled.pyc"))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "link.py").symlink_to(tmp_path / "tell.py")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["tell.py", "one", "--two", "-h"],
        ["./tell.py"],
        ["linked/link.py"],
        ["compiled.pyc", "one"],
        ["package", "one"],
        ["program.zip", "one"],
        ["-m", "package", "one"],
        ["-m", "package.inner", "-m", "x"],
        ["-mpackage.inner"],
        ["-c", "import sys; print(sys.argv, repr(sys.path[0]), __name__, sorted(globals()))", "one"],
        ["-cprint(1)"],
        ["-", "one"],
    ],
)
def test_a_program_sees_what_it_would_see_under_python(directory: Path, command: list[str]) -> None:
    told = same(directory, *command, stdin="import sys; print(sys.argv, __name__, sys.path[0], sorted(globals()))")
    assert told.stdout


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("import sys; sys.exit(5)", 5),
        ("import sys; sys.exit('a message')", 1),
        ("import sys; sys.exit()", 0),
        ("import os; os._exit(9)", 9),
        ("def f():\n    1 / 0\nf()\n", 1),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('chained') from e\n", 1),
        ("x = (\n", 1),
        ("import broken_module\n", 1),
        ("raise KeyboardInterrupt\n", -2),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)\n", -15),
        ("import sys\nsys.excepthook = lambda kind, error, tb: print(kind, tb.tb_lineno, error.__traceback__ is tb)\n1 / 0\n", 1),
    ],
)
def test_ends_and_tracebacks_are_those_of_python(directory: Path, text: str, status: int) -> None:
    (directory / "broken_module.py").write_text("x = )\n")
    (directory / "ending.py").write_text(text)
    told = same(directory, "ending.py")
    assert told.returncode == status
    assert "polyproc" not in told.stderr


def test_a_traceback_of_a_module_begins_with_the_module(directory: Path) -> None:
    (directory / "failing.py").write_text("1 / 0\n")
    told = run(directory, "-m", "failing", polyproc=True)
    assert told.returncode == 1
    assert "runpy" not in told.stderr and "polyproc" not in told.stderr
    assert told.stderr.splitlines()[1].endswith('failing.py", line 1, in <module>')


def test_the_program_and_its_children_run_on_polyproc(directory: Path) -> None:
    (directory / "work.py").write_text(WORK)
    for command in (["work.py"], ["-m", "work"]):
        told = run(directory, *command, polyproc=True)
        assert (told.stderr, told.returncode) == ("", 0)
        rows = told.stdout.splitlines()
        assert sorted(row.split()[0] for row in rows) == ["fork", "forkserver", "spawn"]
        for row in rows:
            assert row.endswith("[(0, 'polyproc.context'), (2, 'polyproc.context'), (4, 'polyproc.context')]")


def test_the_start_method_of_the_environment_is_the_programs_default(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import multiprocessing; print(multiprocessing.get_start_method())"
    monkeypatch.setenv("POLYPROC_START_METHOD", "forkserver")
    assert run(directory, "-c", code, polyproc=True).stdout == "forkserver\n"
    monkeypatch.setenv("POLYPROC_START_METHOD", "carrier pigeon")
    told = run(directory, "-c", code, polyproc=True)
    assert told.returncode == 2
    assert "POLYPROC_START_METHOD=carrier pigeon" in told.stderr and "forkserver" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (["missing.py"], 2, "can't open file '{}/missing.py': [Errno 2] No such file or directory"),
        (["empty"], 1, "can't find '__main__' module in '{}/empty'"),
        (["-m", "no_such_module"], 1, "No module named no_such_module"),
        (["--bogus"], 2, "unknown option '--bogus'"),
        (["-m"], 2, "-m needs the name of a module"),
        (["-c"], 2, "-c needs the code to run"),
        ([], 2, "no program is named"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(directory: Path, command: list[str], status: int, message: str) -> None:
    (directory / "empty").mkdir()
    told = run(directory, *command, polyproc=True)
    assert told.returncode == status
    assert message.format(directory) in told.stderr
    assert "Traceback" not in told.stderr


def test_help_and_version(directory: Path) -> None:
    for option in ("-h", "--help"):
        told = run(directory, option, polyproc=True)
        assert told.returncode == 0 and told.stderr == ""
        assert "usage: python -m polyproc" in told.stdout and "POLYPROC_START_METHOD" in told.stdout
    told = run(directory, "--version", polyproc=True)
    assert told.returncode == 0 and told.stdout.startswith("polyproc ")


def test_the_main_module_lives_until_the_very_end(directory: Path) -> None:
    (directory / "late.py").write_text(
        "import atexit, threading\n"
        "name = 'still here'\n"
        "atexit.register(lambda: print('atexit', name))\n"
        "threading.Timer(0.01, lambda: print('thread', name)).start()\n"
    )
    assert same(directory, "late.py").stdout.split("\n") == ["thread still here", "atexit still here", ""]


def test_files_of_the_standard_streams_are_the_programs_own(directory: Path) -> None:
    code = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.stderr.write('error\\n')"
    told = same(directory, "-c", code, stdin="words\n")
    assert (told.stdout, told.stderr) == ("WORDS\n", "error\n")
