"""Processes on Windows: polyproc runs on Linux, so importing this fails, as the standard module does there. *Own*."""

__all__ = ["Popen"]

raise ImportError(
    "polyproc.popen_spawn_win32 is there for its name only: polyproc runs on Linux, where processes are started by "
    "polyproc.popen_fork, popen_spawn_posix and popen_forkserver"
)
