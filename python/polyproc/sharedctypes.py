"""ctypes objects in shared memory, with and without a lock. A *re-rooted* module.

The standard library's source, over polyproc's locks and its :mod:`polyproc.heap`. Two things differ: a shared object may
also be sent to a running process, through polyproc's queues and connections; and a ctypes object of the same type that is
not shared can still be pickled.
"""

from typing import TYPE_CHECKING, Any

from ._borrowed import reroot
from ._polyproc import is_sharing

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import *

    _standard_reduce: Any
    _assert_spawning: Any
else:
    reroot(globals())
    _standard_reduce, _assert_spawning = reduce_ctype, assert_spawning


# The borrowed source finds these two under their names.


def reduce_ctype(obj: Any) -> Any:
    """How a ctypes object travels: where it lies if it is a shared one, otherwise by value."""
    return _standard_reduce(obj) if hasattr(obj, "_wrapper") else obj.__reduce__()


def assert_spawning(obj: Any) -> None:
    """Raises unless ``obj`` is on its way to another process."""
    if not is_sharing():
        _assert_spawning(obj)
