"""The names of the package over threads instead of processes. A *re-rooted* package.

The standard library's source, so that ``polyproc.dummy.Pool`` is polyproc's own ``ThreadPool``.
"""

from .._borrowed import reroot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.dummy import *
else:
    reroot(globals())
