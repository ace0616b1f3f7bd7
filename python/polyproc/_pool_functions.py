"""Functions of the main module that were defined anew while workers run. An *own* module.

A function travels as its name, and a worker finds what that name meant when the worker was started. In a notebook, and at a
prompt, that may be an older definition, or none. So with a function of ``__main__`` goes its code, and that of the functions of
``__main__`` that it calls; a worker that finds another definition than its own defines the function anew, in its own main
module, with the globals that are there. What is missing there is put in: functions, and modules that were imported since.

What a worker has changed by itself (its initializer may have) is its own, and stays.
"""

from __future__ import annotations

import builtins
import marshal
import sys
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

from . import _main_module, _pickling

__all__: list[str] = []

_MAIN = ("__main__", "__mp_main__")

#: In a worker: the code that each function of the main module had when the worker was started, or when it was refreshed.
_known: dict[str, CodeType] = {}

#: What changes if a definition does: a mapping, and what some of its names stand for.
_Guards = tuple[dict[str, Any], tuple[tuple[str, Any], ...]]


def describe(function: Any) -> tuple[bytes, _Guards] | None:
    """In the parent: the definitions that go with a function, and what they rest on. None if it is not of the main module."""
    while type(function) is partial:
        function = function.func
    if type(function) is not FunctionType or function.__module__ not in _MAIN:
        return None
    names = function.__globals__
    functions: dict[str, tuple[Any, ...]] = {}
    modules: dict[str, str] = {}
    guards: dict[str, Any] = {}
    _add(function.__name__, function, names, functions, modules, guards)
    if _main_module.by_value:
        # All that it needs is in its pickle; what changes must be pickled again.
        return b"", (names, tuple(guards.items()))
    of_functions = tuple((name, value) for name, value in guards.items() if isinstance(value, (FunctionType, type)))
    return marshal.dumps((functions, modules)), (names, of_functions)


def _add(
    name: str,
    function: FunctionType,
    names: dict[str, Any],
    functions: dict[str, tuple[Any, ...]],
    modules: dict[str, str],
    guards: dict[str, Any],
) -> None:
    definition = (function.__code__, function.__defaults__, function.__kwdefaults__)
    if function.__closure__ is None and names.get(name) is function:
        try:
            marshal.dumps(definition)
        except ValueError:
            pass  # defaults that are no plain values: the function stays as the worker has it
        else:
            functions[name] = definition
    for used in _globals_of(function.__code__):
        if used in guards or used not in names or hasattr(builtins, used):
            continue
        value = guards[used] = names[used]
        if isinstance(value, ModuleType):
            modules[used] = value.__name__
        elif type(value) is FunctionType and value.__module__ in _MAIN and value.__globals__ is names:
            _add(used, value, names, functions, modules, guards)


def _globals_of(code: CodeType) -> set[str]:
    """The names that may be globals in this code, and in what is defined inside it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _globals_of(constant)
    return names


def remember() -> None:
    """In a worker, before anything of the program runs there: notes what the main module defines."""
    main = vars(sys.modules["__main__"])
    _known.clear()
    _known.update((name, value.__code__) for name, value in main.items() if type(value) is FunctionType)


def _globals() -> dict[str, Any]:
    """In a worker: the globals of the main module's functions.

    Where the main module was run anew, for a process that was not forked, they are not the module's dictionary, which is a
    copy of them.
    """
    main = vars(sys.modules["__main__"])
    mine = (value.__globals__ for value in main.values() if type(value) is FunctionType and value.__module__ in _MAIN)
    return next(mine, main)


def load(definition: bytes, pickle: bytes, buffers: Any) -> Any:
    """In a worker: the function behind a pickle, after its definitions were brought up to date."""
    functions, modules = marshal.loads(definition)
    main, names = vars(sys.modules["__main__"]), _globals()
    for name, module in modules.items():
        if name not in names:
            try:
                __import__(module)
            except ImportError:
                continue  # the function will say what it misses
            names[name] = main[name] = sys.modules[module]
    for name, (code, defaults, options) in functions.items():
        mine = main.get(name)
        if mine is not None:
            if type(mine) is not FunctionType or mine.__code__ is not _known.get(name):
                continue
            if (mine.__code__, mine.__defaults__, mine.__kwdefaults__) == (code, defaults, options):
                continue
        fresh = FunctionType(code, names, name, defaults)
        fresh.__kwdefaults__ = options
        fresh.__module__ = main["__name__"]
        names[name] = main[name] = fresh
        _known[name] = code
    return _pickling.loads(pickle, buffers=buffers)
