"""Finalizers, the logger, what runs after a fork. A *shared* module.

These are registries of which a process may have only one (a library's ``Finalize`` and polyproc's must run in one order,
once), so this is the standard library's ``multiprocessing.util`` itself.
"""

from ._borrowed import share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.util import *
else:
    share(__name__)
