"""ctypes objects in shared memory, with and without a lock. A *re-rooted* module.

The standard library's source, over polyproc's locks and its :mod:`polyproc.heap`.
"""

from typing import TYPE_CHECKING

from ._borrowed import reroot

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import *
else:
    reroot(globals())
