"""The names of the package over threads instead of processes. A *re-rooted* package.

The standard library's source, so that ``polyproc.dummy.Pool`` is polyproc's own ``ThreadPool``.
"""

from typing import TYPE_CHECKING

from .._borrowed import reroot

if TYPE_CHECKING:
    from multiprocessing.dummy import *
else:
    reroot(globals())
