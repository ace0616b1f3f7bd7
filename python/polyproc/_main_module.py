"""What a child can know of the program's main module: a script it can import, a prompt it cannot. An *own* module.

A process started by ``spawn`` or ``forkserver`` finds functions and classes by importing the module they are in. What was
typed at a prompt, given by ``-c``, on the standard input or in a notebook is in no file: it travels by value, which
cloudpickle can do, or not at all, and then the error says so before a process is started.
"""

from __future__ import annotations

import os
import pickle
import sys
from types import FunctionType
from typing import Any

__all__: list[str] = []

GUARD = """\
hint: a process started by spawn or forkserver imports the main module to find what it is to run. What starts processes, \
or sets how they start, belongs behind a guard, so that an import does not do it again:

    if __name__ == "__main__":
        ...
"""

#: True once a child was started that cannot import our main module: messages that refer to it must carry what they mean.
by_value = False


def can_be_imported() -> bool:
    """Whether a fresh interpreter could import what is ``__main__`` here."""
    main = sys.modules.get("__main__")
    if getattr(getattr(main, "__spec__", None), "name", None) is not None:
        return True
    path = getattr(main, "__file__", None)
    return path is not None and not is_pseudo(path)


def is_pseudo(path: str) -> bool:
    """``<stdin>`` and its like are no files."""
    name = os.path.basename(path)
    return name.startswith("<") and name.endswith(">") and not os.path.exists(path)


def what_to_do(name: str) -> str:
    """For the person who runs the program: why `name` is not there for a child, and what helps."""
    return (
        f"{name!r} is defined in the program's main module, which another process cannot import: it was typed at a prompt, "
        "or given by -c, on standard input or in a notebook. Install cloudpickle (pip install cloudpickle), put the "
        "definition into a module (a .py file) and import it, or use the start method 'fork'"
    )


def note_missing(error: AttributeError) -> None:
    """Adds to the error of a child that did not find something in ``__main__`` what helps."""
    if "<module '__main__'" in str(error) or "<module '__mp_main__'" in str(error):
        name = str(error).partition("'")[2].partition("'")[0]
        error.add_note(f"hint: {what_to_do(name)}")


class Refusing(pickle.Pickler):
    """Raises where a pickle would only refer to something in the main module."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (FunctionType, type)) and obj.__module__ == "__main__":
            raise pickle.PicklingError(what_to_do(obj.__qualname__))
        return NotImplemented
