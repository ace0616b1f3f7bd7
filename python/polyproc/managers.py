"""Objects that live in a server process and are used through proxies. A *re-rooted* module.

The standard library's source, running over polyproc's processes, connections and pools.
"""

from typing import TYPE_CHECKING

from ._borrowed import reroot

if TYPE_CHECKING:
    from multiprocessing.managers import *
else:
    reroot(globals())
