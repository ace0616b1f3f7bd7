"""The process that unlinks named shared memory whose users are all gone. A *shared* module.

polyproc's own objects have no names and need no tracker. The standard tracker is started with the first
:class:`polyproc.shared_memory.SharedMemory`, and there must be one per program, so this is the standard library's
``multiprocessing.resource_tracker`` itself.
"""

from typing import TYPE_CHECKING

from ._borrowed import share

if TYPE_CHECKING:
    from multiprocessing.resource_tracker import *
else:
    share(__name__)
