"""A missing ``__main__`` guard, and functions that are defined where no child can import them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

METHODS = ["spawn", "forkserver"]

#: Hides cloudpickle, as where it is not installed. In the parent it matters: that is where things are pickled.
WITHOUT_CLOUDPICKLE = "import sys; sys.modules['cloudpickle'] = None\n"

PROGRAM = """\
import polyproc
polyproc.set_start_method("{method}")
class Box:
    def __init__(self, content):
        self.content = content
def double(number):
    print("doubles", number, flush=True)
    return Box(2 * number)
process = polyproc.Process(target=double, args=(1,))
process.start()
process.join(30)
print("exit code", process.exitcode, flush=True)
with polyproc.Pool(1) as pool:
    box = pool.apply_async(double, (21,)).get(30)
    print("answer", box.content, type(box) is Box, flush=True)
"""


def run(*arguments: str, text: str | None = None, cwd: Path) -> subprocess.CompletedProcess[str]:
    stdin = subprocess.DEVNULL if text is None else None
    return subprocess.run(
        [sys.executable, *arguments], input=text, stdin=stdin, capture_output=True, text=True, timeout=60, cwd=cwd
    )


def by(way: str, program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    if way == "-c":
        return run("-c", program, cwd=cwd)
    if way == "prompt":
        prompt = "import code, sys; code.InteractiveConsole(vars(sys.modules['__main__'])).runsource(sys.stdin.read(), '<input>', 'exec')"
        return run("-c", prompt, text=program, cwd=cwd)
    return run("-", text=program, cwd=cwd)


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_guard_is_named_with_what_to_do(method: str, tmp_path: Path) -> None:
    script = tmp_path / "no_guard.py"
    script.write_text(
        "import polyproc\n"
        f"context = polyproc.get_context({method!r})\n"
        "process = context.Process(target=print, args=('ran',))\n"
        "process.start()\nprocess.join(30)\nprint('exit code', process.exitcode)\n"
    )
    answer = run(str(script), cwd=tmp_path)
    assert answer.stdout == "exit code 1\n", answer
    assert "RuntimeError" in answer.stderr
    assert "before the current process has finished its bootstrapping phase" in " ".join(answer.stderr.split())
    assert 'if __name__ == "__main__":' in answer.stderr.partition("hint: ")[2]


@pytest.mark.parametrize("method", METHODS)
def test_a_start_method_set_without_a_guard_gets_the_hint_too(method: str, tmp_path: Path) -> None:
    script = tmp_path / "no_guard.py"
    script.write_text(
        f"import polyproc\npolyproc.set_start_method({method!r})\n"
        "process = polyproc.Process(target=print)\nprocess.start()\nprocess.join(30)\n"
    )
    answer = run(str(script), cwd=tmp_path)
    assert "hint: " in answer.stderr, answer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["-c", "standard input", "prompt"])
def test_functions_and_classes_of_no_file_work_by_cloudpickle(way: str, method: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    answer = by(way, PROGRAM.format(method=method), tmp_path)
    assert answer.stdout.splitlines() == ["doubles 1", "exit code 0", "doubles 21", "answer 42 True"], answer
    assert answer.returncode == 0, answer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["-c", "standard input", "prompt"])
def test_without_cloudpickle_the_error_says_what_to_do(way: str, method: str, tmp_path: Path) -> None:
    answer = by(way, WITHOUT_CLOUDPICKLE + PROGRAM.format(method=method), tmp_path)
    assert "doubles" not in answer.stdout
    assert "'double' is defined in the program's main module" in answer.stderr, answer
    assert "pip install cloudpickle" in answer.stderr


@pytest.mark.parametrize("method", METHODS)
def test_a_pools_task_is_refused_in_the_same_words(method: str, tmp_path: Path) -> None:
    program = (
        f"{WITHOUT_CLOUDPICKLE}import polyproc\ndef double(number):\n    return 2 * number\n"
        f"with polyproc.get_context({method!r}).Pool(1) as pool:\n"
        "    print(pool.apply_async(abs, (-3,)).get(30), flush=True)\n"
        "    pool.apply_async(double, (1,)).get(30)\n"
    )
    answer = run("-c", program, cwd=tmp_path)
    assert answer.stdout == "3\n", answer
    assert "'double' is defined in the program's main module" in answer.stderr, answer


def test_under_fork_they_work_as_ever(tmp_path: Path) -> None:
    answer = by("-c", WITHOUT_CLOUDPICKLE + PROGRAM.format(method="fork"), tmp_path)
    assert answer.stdout.splitlines() == ["doubles 1", "exit code 0", "doubles 21", "answer 42 True"], answer


REMOVED = """\
import os, tempfile
import polyproc
def say(): print("ran", flush=True)
if __name__ == "__main__":
    directory = tempfile.mkdtemp()
    os.chdir(directory)
    os.rmdir(directory)
    for method in "fork", "spawn", "forkserver":
        process = polyproc.get_context(method).Process(target=say)
        process.start()
        process.join(30)
        print(process.exitcode, flush=True)
"""


def test_children_start_where_the_current_directory_was_removed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(REMOVED)
    answer = run("script.py", cwd=tmp_path)
    assert (answer.stdout, answer.stderr) == ("ran\n0\n" * 3, "")
