"""install(): polyproc in the place of multiprocessing, here and in every child."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

INTERFACE = Path(__file__).resolve().parents[1] / "wheel" / "interface.py"

SUBMODULES = (
    "connection context dummy dummy.connection forkserver heap managers pool popen_fork popen_forkserver "
    "popen_spawn_posix process queues reduction resource_sharer resource_tracker shared_memory sharedctypes spawn "
    "synchronize util"
).split()


def run(code: str, *options: str, directory: Path | None = None) -> str:
    """What the code prints in a fresh interpreter. It must say nothing on stderr."""
    told = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=60, cwd=directory)
    assert (told.stderr, told.returncode) == ("", 0)
    return told.stdout.strip()


def test_every_module_of_multiprocessing_is_the_one_of_polyproc() -> None:
    assert run(
        "import polyproc; polyproc.install()\n"
        "import multiprocessing, importlib, sys\n"
        f"for name in {SUBMODULES}:\n"
        "    ours = importlib.import_module('polyproc.' + name)\n"
        "    assert importlib.import_module('multiprocessing.' + name) is ours, name\n"
        "    assert sys.modules['multiprocessing.' + name] is ours, name\n"
        "import multiprocessing.queues as queues, polyproc.queues\n"
        "assert queues is polyproc.queues\n"
        "from multiprocessing.pool import Pool; assert Pool is polyproc.pool.Pool\n"
        "print('good')\n"
    ) == "good"


def test_every_name_takes_what_the_one_of_multiprocessing_takes() -> None:
    told = subprocess.run([sys.executable, INTERFACE], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stdout + told.stderr


def test_nothing_is_loaded_twice() -> None:
    assert run(
        "import polyproc; polyproc.install()\n"
        "import multiprocessing.util, polyproc.util, sys, gc, types, importlib\n"
        f"for name in {SUBMODULES}: importlib.import_module('multiprocessing.' + name)\n"
        "finalizers = [m for m in gc.get_objects() if isinstance(m, types.ModuleType) and hasattr(m, '_finalizer_registry')]\n"
        "print(len(finalizers))\n"
    ) == "1"


def test_the_names_are_those_of_multiprocessing() -> None:
    names = run("import multiprocessing; print(sorted(multiprocessing.__all__))")
    assert run("import polyproc; polyproc.install(); import multiprocessing; print(sorted(multiprocessing.__all__))") == names
    assert run("import polyproc; print(sorted(polyproc.__all__))") == names
    public = "print([n for n in dir(multiprocessing) if n[0] != '_' and n not in multiprocessing.__all__])"
    extra = eval(run(f"import polyproc; polyproc.install(); import multiprocessing; {public}"))
    assert set(extra) <= set(eval(run(f"import multiprocessing; {public}")))
    assert run("import polyproc; polyproc.install(); import multiprocessing; print(hasattr(multiprocessing, 'install'))") == "False"


def test_what_was_imported_before_stays_and_what_comes_after_is_new() -> None:
    assert run(
        "import multiprocessing.queues, multiprocessing.util; from multiprocessing import queues as before, util\n"
        "import polyproc; polyproc.install(); polyproc.install()\n"
        "import multiprocessing.queues; from multiprocessing import queues as after\n"
        "assert before is not after and after is polyproc.queues\n"
        "assert multiprocessing.Process is polyproc.Process\n"
        "assert sys.modules['multiprocessing.util'] is util if (sys := __import__('sys')) else 0\n"
        "assert sys.modules['polyproc._stdlib.queues'] is before\n"
        "print('good')\n"
    ) == "good"


def test_contexts_fit_where_the_standard_base_is_asked_for() -> None:
    assert run(
        "import multiprocessing.context, polyproc\n"
        "assert isinstance(polyproc.get_context('spawn'), multiprocessing.context.BaseContext)\n"
        "assert isinstance(polyproc.get_context(), multiprocessing.context.BaseContext)\n"
        "polyproc.install()\n"
        "import multiprocessing.context as after\n"
        "assert isinstance(polyproc.get_context('spawn'), after.BaseContext)\n"
        "assert after.ProcessError is polyproc.ProcessError\n"
        "print('good')\n"
    ) == "good"


def test_who_runs_is_known_to_both() -> None:
    assert run(
        "import multiprocessing, polyproc\n"
        "assert multiprocessing.current_process() is polyproc.current_process()\n"
        "def f(): assert multiprocessing.current_process() is polyproc.current_process(); print(multiprocessing.current_process().name)\n"
        "p = polyproc.get_context('fork').Process(target=f, name='child'); p.start(); p.join(); assert p.exitcode == 0\n"
    ) == "child"


PROGRAM = """
import sys
{install}
import multiprocessing as mp

def where(depth):
    module = type(mp.get_context()).__module__, mp.Process.__module__, mp.Queue().__class__.__module__
    if depth == 0:
        return module
    context = mp.get_context({method!r})
    queue = context.SimpleQueue()
    process = context.Process(target=answer, args=(queue, depth - 1))
    process.start()
    found = queue.get()
    process.join()
    return found

def answer(queue, depth):
    queue.put(where(depth))

if __name__ == "__main__":
    print(where(0), where(1), where(2))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_and_grandchildren_have_it_too(tmp_path: Path, method: str) -> None:
    # Only the program itself installs: it is not asked for again where the children import the main module.
    install = "if __name__ == '__main__':\n    import polyproc; polyproc.install()"
    (tmp_path / "program.py").write_text(PROGRAM.format(install=install, method=method))
    told = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=60)
    assert told.stderr == ""
    one = "('polyproc.context', 'polyproc.context', 'polyproc.queues')"
    assert told.stdout.strip() == f"{one} {one} {one}"


def test_it_can_be_called_by_a_hook_on_the_import_itself(tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text(
        "import sys\n"
        "from importlib import import_module\n"
        "from importlib.machinery import ModuleSpec\n"
        "class Hook:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'multiprocessing': return ModuleSpec(name, self)\n"
        "    def create_module(self, spec):\n"
        "        sys.meta_path.remove(self)\n"
        "        import_module('polyproc').install()\n"
        "        module = import_module('multiprocessing')\n"
        "        self.spec = module.__spec__\n"
        "        return module\n"
        "    def exec_module(self, module): module.__spec__ = self.spec\n"
        "sys.meta_path.insert(0, Hook())\n"
    )
    assert run(
        "import hook, multiprocessing.queues, multiprocessing\n"
        "print(multiprocessing.Process.__module__, multiprocessing.queues.Queue.__module__)\n",
        directory=tmp_path,
    ) == "polyproc.context polyproc.queues"


def test_a_submodule_that_does_not_exist_is_missed_by_its_name() -> None:
    assert run(
        "import polyproc; polyproc.install(); import multiprocessing\n"
        "try: import multiprocessing.nothing\n"
        "except ModuleNotFoundError as error: print(error)\n"
        "try: multiprocessing.nothing\n"
        "except AttributeError as error: print(error)\n"
    ).splitlines() == ["No module named 'multiprocessing.nothing'", "module 'multiprocessing' has no attribute 'nothing'"]


def test_importing_costs_no_more_than_its_parts() -> None:
    loaded = run("import polyproc, sys; print(' '.join(sorted(m for m in sys.modules if m.startswith('polyproc'))))")
    assert "polyproc.pool" not in loaded and "polyproc.managers" not in loaded and "polyproc._polyproc" not in loaded
    assert run("import polyproc, sys; print('subprocess' in sys.modules, 'asyncio' in sys.modules)") == "False False"


def test_concurrent_futures_run_on_it() -> None:
    assert run(
        "import polyproc; polyproc.install()\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "import os\n"
        "with ProcessPoolExecutor(2) as pool:\n"
        "    print(list(pool.map(abs, [-1, -2, -3])), type(pool._mp_context).__module__)\n"
    ) == "[1, 2, 3] polyproc.context"
