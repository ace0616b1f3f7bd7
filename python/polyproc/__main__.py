"""``python -m polyproc``: runs an unchanged program on polyproc. An *own* module.

The program gets what ``python`` itself would give it: its own ``sys.argv``, ``sys.path``, ``__main__``, exit status and
streams, and tracebacks that begin with its own code.
"""

from __future__ import annotations

import builtins
import os
import sys
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType, TracebackType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["main"]

USAGE = """\
usage: python -m polyproc [--] SCRIPT [ARGUMENTS]
       python -m polyproc -m MODULE [ARGUMENTS]
       python -m polyproc -c CODE [ARGUMENTS]
       python -m polyproc -h | --help | --version
"""

HELP = f"""\
{USAGE}
Runs a program that uses multiprocessing on polyproc instead, in this process and in all its children, without a change
to the program. SCRIPT is a file, a directory or a zip file with a __main__.py in it, or - for the standard input.

environment:
  POLYPROC_START_METHOD   fork, spawn or forkserver: how processes start where the program does not say
  POLYPROC_ORPHANS        keep: processes outlive a parent that was killed
"""

PROGRAM = "python -m polyproc"


def main() -> None:
    """Runs the program that the command line names."""
    options = sys.argv[1:]
    if not options:
        _refuse("no program is named")
    first, *rest = options
    if first in ("-h", "--help"):
        print(HELP, end="")
    elif first == "--version":
        import polyproc

        print(f"polyproc {polyproc.__version__} on Python {sys.version.split()[0]}")
    elif first.startswith("-m"):
        name, arguments = _value("-m", first, rest, "the name of a module")
        _run(_of_module, name, ["-m", *arguments])
    elif first.startswith("-c"):
        text, arguments = _value("-c", first, rest, "the code to run")
        _run(_of_code, text, ["-c", *arguments])
    elif first == "--" and rest:
        _run(_of_file, rest[0], rest)
    elif first.startswith("-") and first != "-":
        _refuse(f"unknown option {first!r}")
    else:
        _run(_of_file, first, options)


def _value(option: str, first: str, rest: list[str], what: str) -> tuple[str, list[str]]:
    if len(first) > len(option):
        return first[len(option) :], rest
    if not rest:
        _refuse(f"{option} needs {what}")
    return rest[0], rest[1:]


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"{PROGRAM}: {why}\n{USAGE}")
    raise SystemExit(2)


def _run(find: Any, what: str, argv: list[str]) -> None:
    import polyproc

    try:
        polyproc.get_all_start_methods()
    except ValueError as error:
        _refuse(str(error))
    polyproc.install()
    sys.argv = argv
    this = sys.modules["__main__"]
    program = ModuleType("__main__")
    vars(program).update(__builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = sys.modules["__mp_main__"] = program
    _OWN.append(this)
    try:
        code = find(what, program)
        _execute(code, vars(program))
    except SystemExit:
        raise
    except BaseException:
        _hide_this_file()
        raise


#: Keeps the module of this file alive, whose place in sys.modules the program has taken.
_OWN: list[ModuleType] = []


def _execute(code: CodeType, namespace: dict[str, Any]) -> None:
    exec(code, namespace)


def _of_code(text: str, program: ModuleType) -> CodeType:
    program.__loader__ = BuiltinImporter
    if not sys.flags.safe_path and sys.path:
        sys.path[0] = ""
    if sys.version_info >= (3, 13):  # whose tracebacks show the lines of such code
        import linecache

        linecache.cache["<string>"] = (len(text), None, text.splitlines(keepends=True), "<string>")
    return compile(text, "<string>", "exec", dont_inherit=True)


def _of_module(name: str, program: ModuleType) -> CodeType:
    import runpy

    error: Any = runpy._Error  # type: ignore[attr-defined]
    try:
        name, spec, code = runpy._get_module_details(name, error)  # type: ignore[attr-defined]
    except error as problem:
        sys.exit(f"{sys.executable}: {problem}")
    sys.argv[0] = spec.origin
    return _as_main(program, spec, code)


def _as_main(program: ModuleType, spec: Any, code: CodeType) -> CodeType:
    vars(program).update(
        __file__=spec.origin,
        __cached__=spec.cached,
        __loader__=spec.loader,
        __package__=spec.parent,
        __spec__=spec,
        __doc__=None,
    )
    return code


def _of_file(path: str, program: ModuleType) -> CodeType:
    if path == "-":
        return _of_input(program)
    absolute = os.path.join(os.getcwd(), path)
    if _holds_modules(absolute):
        return _of_directory(absolute, program)
    try:
        with open(absolute, "rb") as file:
            content = file.read()
    except OSError as error:
        sys.stderr.write(f"{PROGRAM}: can't open file {absolute!r}: [Errno {error.errno}] {error.strerror}\n")
        raise SystemExit(2) from None
    if not sys.flags.safe_path and sys.path:
        sys.path[0] = os.path.dirname(os.path.realpath(absolute))
    compiled = absolute.endswith(".pyc")
    loader = (SourcelessFileLoader if compiled else SourceFileLoader)("__main__", absolute)
    vars(program).update(__file__=absolute, __cached__=None, __loader__=loader)
    if compiled:
        code = loader.get_code("__main__")
        assert code is not None
        return code
    return compile(content, absolute, "exec", dont_inherit=True)


def _holds_modules(path: str) -> bool:
    """True for a directory or a zip file: what the import system could import from."""
    for hook in sys.path_hooks:
        try:
            hook(path)
        except ImportError:
            continue
        return True
    return False


def _of_input(program: ModuleType) -> CodeType:
    vars(program).update(__file__="<stdin>", __cached__=None, __loader__=BuiltinImporter)
    if not sys.flags.safe_path and sys.path:
        sys.path[0] = ""
    return compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True)


def _of_directory(path: str, program: ModuleType) -> CodeType:
    """The ``__main__`` of a directory or a zip file."""
    import runpy

    if sys.flags.safe_path:
        sys.path.insert(0, path)
    else:
        sys.path[0] = path
    error: Any = runpy._Error  # type: ignore[attr-defined]
    try:
        _, spec, code = runpy._get_main_module_details(error)  # type: ignore[attr-defined]
    except error as problem:
        sys.exit(f"{sys.executable}: {problem}")
    return _as_main(program, spec, code)


def _hide_this_file() -> None:
    """Has an error that leaves the program shown as python itself would show it: from the program's first line on."""
    hook = sys.excepthook

    def shown(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        sys.excepthook = hook
        traceback = _of_program(traceback)
        hook(kind, error.with_traceback(traceback), traceback)

    sys.excepthook = shown


def _of_program(traceback: TracebackType | None) -> TracebackType | None:
    entry = traceback
    while entry is not None:
        if entry.tb_frame.f_code is _execute.__code__:
            return entry.tb_next
        entry = entry.tb_next
    return None  # it never came to run: a syntax error


if __name__ == "__main__":
    main()
