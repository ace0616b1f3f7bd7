"""Objects that live in a server process and are used through proxies. A *re-rooted* module.

The standard library's source, running over polyproc's processes, connections and pools.
"""

from ._borrowed import reroot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.managers import *
else:
    reroot(globals())
