"""The process that unlinks named shared memory whose users are all gone. A *shared* module.

polyproc's own objects have no names and need no tracker. The standard tracker is started with the first
:class:`polyproc.shared_memory.SharedMemory`, and there must be one per program, so this is the standard library's
``multiprocessing.resource_tracker`` itself. Where polyproc stands as ``multiprocessing`` nobody makes named semaphores,
so they are not among the kinds that are looked after.
"""

from . import _borrowed, _install

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.resource_tracker import *
else:
    _borrowed.share(__name__)
    if _install.is_installed():
        _borrowed.standard("resource_tracker")._CLEANUP_FUNCS.pop("semaphore", None)
