"""What a fresh interpreter does to become a child: prepare itself, import the main module, run. An *own* module.

It builds on the standard library's ``spawn``: the preparation data is made by the standard function (coverage tools add
to it by replacing that function) and applied by the standard ``prepare``. polyproc adds what it must know first: whether
it stands as ``multiprocessing``, the lifeline to the parent, and the session memory. That travels as the first item of
the preparation data, so it is in place before any other byte is unpickled, whatever command line the child was given.
"""

from __future__ import annotations

import io
import os
import runpy
import signal
import sys
from types import CodeType, ModuleType

from . import _install, get_start_method, process, util
from . import set_start_method as _set_start_method
from ._borrowed import standard
from ._polyproc import leave
from .context import ForkServerProcess, Process, get_spawning_popen, reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from multiprocessing import spawn as _standard
else:
    _standard = standard("spawn")

__all__ = [
    "_main",
    "freeze_support",
    "set_executable",
    "get_executable",
    "get_preparation_data",
    "get_command_line",
    "import_main_path",
]

WINEXE = False
WINSERVICE = False

set_executable = _standard.set_executable
get_executable = _standard.get_executable
is_forking = _standard.is_forking
old_main_modules = _standard.old_main_modules
_check_not_importing_main = _standard._check_not_importing_main  # type: ignore[attr-defined]
_fixup_main_from_name = _standard._fixup_main_from_name  # type: ignore[attr-defined]
_fixup_main_from_path = _standard._fixup_main_from_path  # type: ignore[attr-defined]

#: Where a child started by ``python -c`` finds what to do.
PROGRAM = "from polyproc.spawn import spawn_main; spawn_main(%s)"


def freeze_support() -> None:
    """Runs the child's part if this interpreter was started as one, and then ends it."""
    if is_forking(sys.argv):
        pairs = (argument.split("=") for argument in sys.argv[2:])
        arguments: dict[str, Any] = {name: None if value == "None" else int(value) for name, value in pairs}
        spawn_main(**arguments)
        sys.exit()


def get_command_line(**kwds: Any) -> list[str | bytes]:
    """The command that starts a child."""
    options = [f"{name}={value!r}" for name, value in kwds.items()]
    if getattr(sys, "frozen", False):
        return [sys.executable, "--multiprocessing-fork", *options]
    return [get_executable(), *interpreter_flags(), "-c", PROGRAM % ", ".join(options), "--multiprocessing-fork"]


def interpreter_flags() -> list[str]:
    """The options of this interpreter, for one that it starts."""
    flags: list[str] = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if not _has_directory() and "-P" not in flags:
        # Python 3.13.0 fails in its imports where it was to look in a directory that has been removed.
        flags.append("-P")
    return flags


def _has_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def spawn_main(pipe_handle: int, parent_pid: int | None = None, tracker_fd: int | None = None) -> None:
    """The whole life of a spawned child: reads the process object from ``pipe_handle``, runs it, exits."""
    assert is_forking(sys.argv), "this is not the command line of a child process"
    from . import resource_tracker

    resource_tracker._resource_tracker._fd = tracker_fd  # type: ignore[attr-defined]
    sys.exit(_main(pipe_handle))


def _main(fd: int, parent_sentinel: int | None = None) -> int:
    with os.fdopen(fd, "rb", closefd=True) as from_parent:
        process.current_process()._inheriting = True  # type: ignore[attr-defined]
        try:
            data = reduction.pickle.load(from_parent)
            try:
                prepare(data)
            except Exception as error:
                return _report(data, error)
            this = _unpickled(from_parent)
        finally:
            del process.current_process()._inheriting  # type: ignore[attr-defined]
    boot: _Boot | None = data.get(BOOT)
    code: int = this._bootstrap(parent_sentinel if boot is None else boot.lifeline)
    leave()
    return code


def rehearse() -> None:
    """Does, to no effect, what a forked child begins with: so that the pages for it are its own before anybody waits."""
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
    prepare({})
    if _compiled is not None:
        try:
            compiled(_compiled[0])
        except (OSError, SyntaxError, ValueError):
            pass  # the child will say so
    with open(os.devnull, "rb") as nothing:
        nothing.read()
    names = _Boot, _boot, Process, ForkServerProcess
    reduction.pickle.loads(reduction.ForkingPickler.dumps(names))


def _unpickled(file: Any) -> Any:
    try:
        return reduction.pickle.load(file)
    except AttributeError as error:
        from ._main_module import note_missing

        note_missing(error)
        raise


def get_preparation_data(name: str) -> dict[str, Any]:
    """What a child named ``name`` must know before it can unpickle its process object."""
    # The standard function also asks for, and thereby fixes, the start method of the standard package.
    default = standard("context")._default_context
    before = default._actual_context
    try:
        data = _standard.get_preparation_data(name)
    except FileNotFoundError:
        data = _without_directory(name)
    finally:
        default._actual_context = before
    path = data.get("init_main_from_path")
    if path is not None and path.endswith(">"):
        from ._main_module import is_pseudo

        if is_pseudo(path):  # a script on the standard input, say: there is nothing to import
            del data["init_main_from_path"]
    return {BOOT: _Boot(), **data, START_METHOD: get_start_method()}


def _without_directory(name: str) -> dict[str, Any]:
    """The preparation data where the current directory has been removed, of which the standard function knows nothing."""
    this: Any = process.current_process()
    data: dict[str, Any] = {
        "log_to_stderr": util._log_to_stderr,  # type: ignore[attr-defined]
        "authkey": this.authkey,
        "name": name,
        "sys_path": [path or process.ORIGINAL_DIR for path in sys.path],  # type: ignore[attr-defined]
        "sys_argv": sys.argv,
        "orig_dir": process.ORIGINAL_DIR,  # type: ignore[attr-defined]
        "start_method": get_start_method(),
    }
    if util._logger is not None:  # type: ignore[attr-defined]
        data["log_level"] = util._logger.getEffectiveLevel()  # type: ignore[attr-defined]
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if getattr(main.__spec__, "name", None) is not None:
        data["init_main_from_name"] = main.__spec__.name  # type: ignore[union-attr]
    elif path is not None:
        data["init_main_from_path"] = os.path.normpath(os.path.join(process.ORIGINAL_DIR or "/", path))  # type: ignore[attr-defined]
    return data


def prepare(data: dict[str, Any]) -> None:
    """Makes this process ready to unpickle its process object: name, paths, directory, start method, main module."""
    if "dir" in data and not os.path.isdir(data["dir"]):
        del data["dir"]  # removed since; we are in it, wherever that now is
    if START_METHOD in data:
        _set_start_method(data[START_METHOD], force=True)
    path = data.get("init_main_from_path")
    if path is None or "init_main_from_name" in data or not _is_source(path):
        _standard.prepare(data)
        return
    _standard.prepare({name: value for name, value in data.items() if name != "init_main_from_path"})
    import_main_path(path)


def import_main_path(main_path: str) -> None:
    """Makes the file at ``main_path`` the module ``__main__``, unless it is that already.

    What the standard function does, but it does not import pkgutil (and with it typing), some milliseconds of every child's
    life, to find out that a Python source is neither a directory nor a zip file.
    """
    if not _is_source(main_path):
        _standard.import_main_path(main_path)
        return
    before = sys.modules["__main__"]
    if os.path.basename(main_path) == "ipython.py" or getattr(before, "__file__", None) == main_path:
        return
    code = compiled(main_path)
    old_main_modules.append(before)
    main = ModuleType("__mp_main__")
    content = runpy._run_module_code(code, None, main.__name__, pkg_name="", script_name=main_path)  # type: ignore[attr-defined]
    vars(main).update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main


#: The code of the main module that was compiled last: its path, what tells that the file is still the same, the code.
_compiled: tuple[str, tuple[int, ...], CodeType] | None = None


def compiled(path: str) -> CodeType:
    """The code of the Python source at ``path``. The fork server compiles it ahead, for all its children."""
    global _compiled
    with io.open_code(os.path.abspath(path)) as file:
        status = os.fstat(file.fileno())
        version = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if _compiled is None or _compiled[:2] != (path, version):
            _compiled = path, version, compile(file.read(), path, "exec", dont_inherit=True)
    return _compiled[2]


def _is_source(path: str) -> bool:
    return path.endswith(".py") and os.path.isfile(path)


BOOT = "polyproc"
START_METHOD = "polyproc_start_method"


class _Boot:
    """What a child needs of polyproc itself, before anything else. Unpickling it puts it in place."""

    def __init__(self, installed: bool | None = None, lifeline: int | None = None) -> None:
        self.installed = _install.is_installed() if installed is None else installed
        self.lifeline = lifeline

    def __reduce__(self) -> tuple[Any, ...]:
        popen: Any = get_spawning_popen()
        if popen is None:
            return _Boot, (self.installed,)
        handed_down = [popen.DupFd(popen.duplicate_for_child(fd)) for fd in popen.estate.descriptors]
        return _boot, (self.installed, *handed_down, popen.participant)


def _boot(installed: bool, memory: Any, life: Any, lifeline: Any, participant: int) -> _Boot:
    from ._polyproc import accept_estate

    boot = _Boot(installed, lifeline.detach())
    assert boot.lifeline is not None
    accept_estate(memory.detach(), life.detach(), boot.lifeline, participant)
    if installed:
        _install.install()
    return boot


def _report(data: dict[str, Any], error: Exception) -> int:
    """Tells on stderr why a child could not begin, and gives its exit code."""
    import traceback

    traceback.print_exc()
    main = data.get("init_main_from_path") or data.get("init_main_from_name")
    what = f"import its main module {main!r}" if main else "prepare itself"
    sys.stderr.write(
        f"process {data.get('name')!r} (pid {os.getpid()}) could not {what} and did not run: the error is above\n"
    )
    said = str(error)
    if isinstance(error, RuntimeError) and ("bootstrapping phase" in said or "context has already been set" in said):
        from ._main_module import GUARD

        sys.stderr.write(GUARD)
    util._flush_std_streams()  # type: ignore[attr-defined]
    return 1


def __getattr__(name: str) -> Any:
    return getattr(_standard, name)
