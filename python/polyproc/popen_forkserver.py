"""A child that begins as a copy of the fork server. An *own* module.

It is the server's child, not ours: how it ended comes from the server over the status socket. That it ended comes from its
pidfd, so a server that is killed ends nobody's wait early.
"""

from __future__ import annotations

import os
import select

from . import forkserver, popen_fork, popen_spawn_posix, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Popen"]

#: How long the server may take to tell of a child that is seen to have ended, in milliseconds.
TOLD_WITHIN = 5000

#: How long it may take to collect it then.
COLLECTED_WITHIN = 1000


class _DupFd:
    """A descriptor that the child finds among those that came with its birth."""

    def __init__(self, ind: int) -> None:
        self.ind = ind

    def detach(self) -> int:
        descriptors = forkserver.get_inherited_fds()
        assert descriptors is not None, "this process was not started by the fork server"
        return descriptors[self.ind]


class Popen(popen_spawn_posix.Popen):
    """A child started by the fork server."""

    method = "forkserver"
    DupFd: Any = _DupFd

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: Any) -> None:
        with self._estate():
            handed_down = self._pack(process_obj)
            try:
                newborn = forkserver.connect_to_new_process([handed_down, *self._fds])
            finally:
                os.close(handed_down)
        self.pid = newborn.pid
        self._status = newborn.status
        self.finalizer = util.Finalize(self, os.close, (newborn.status,))
        self._adopt(newborn.pidfd)

    def _collect(self) -> int | None:
        if not self._wait_for_end(0):
            return None
        poller = select.poll()
        poller.register(self._status, select.POLLIN)
        word = b""
        if poller.poll(TOLD_WITHIN):
            try:
                word = os.read(self._status, forkserver.NUMBER.size)
                os.write(self._status, b"!")
            except ConnectionError:
                pass  # the server is gone
        if not word:
            return self._collected_by_another()
        poller.poll(COLLECTED_WITHIN)
        code: int = forkserver.NUMBER.unpack(word)[0]
        return code
