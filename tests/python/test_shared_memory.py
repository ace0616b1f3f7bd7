"""Shared memory with a name: who owns a block, and what becomes of it when somebody dies."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import until

import polyproc as mp
from polyproc import shared_memory
from polyproc.shared_memory import ShareableList, SharedMemory

TIME = 20.0


def run(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs another program, which has its own resource tracker."""
    return subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
def block() -> Any:
    block = SharedMemory(create=True, size=1000)
    yield block
    block.close()
    try:
        block.unlink()
    except FileNotFoundError:
        pass


def path_of(name: str) -> Path:
    return Path("/dev/shm") / name


def test_what_one_writes_the_other_reads(block: SharedMemory) -> None:
    same = SharedMemory(name=block.name)
    same.buf[:5] = b"hello"
    assert bytes(block.buf[:5]) == b"hello"
    assert same.size == block.size == 1000
    same.close()


@pytest.mark.parametrize("arguments", [{"create": True, "size": 0}, {"create": True, "size": -1}, {}])
def test_bad_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SharedMemory(**arguments)


def test_a_name_is_given_once(block: SharedMemory) -> None:
    with pytest.raises(FileExistsError):
        SharedMemory(name=block.name, create=True, size=10)
    assert path_of(block.name).exists()


READ = """
import sys
from polyproc.shared_memory import SharedMemory
block = SharedMemory(name=sys.argv[1])
print(bytes(block.buf[:5]).decode())
block.close()
"""


def test_another_program_that_reads_a_block_does_not_destroy_it(block: SharedMemory) -> None:
    block.buf[:5] = b"hello"
    for _ in range(2):
        done = run(READ, block.name)
        assert (done.stdout, done.stderr, done.returncode) == ("hello\n", "", 0)
    again = SharedMemory(name=block.name)
    assert bytes(again.buf[:5]) == b"hello"
    again.close()


UNLINK = """
import sys
from polyproc.shared_memory import SharedMemory
block = SharedMemory(name=sys.argv[1])
block.close()
block.unlink()
"""


CREATE_AND_LET_UNLINK = """
import subprocess, sys
from polyproc.shared_memory import SharedMemory
block = SharedMemory(create=True, size=10)
subprocess.run([sys.executable, "-c", sys.argv[1], block.name], check=True)
block.close()
"""


def test_another_program_may_unlink_a_block_and_nobody_complains() -> None:
    done = run(CREATE_AND_LET_UNLINK, UNLINK)
    assert (done.stderr, done.returncode) == ("", 0)


CREATE_AND_DIE = """
import os, signal
from polyproc import resource_tracker
from polyproc.shared_memory import SharedMemory
block = SharedMemory(create=True, size=10)
print(block.name, flush=True)
os.kill(resource_tracker._resource_tracker._pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""

CREATE = """
from polyproc.shared_memory import SharedMemory
block = SharedMemory(create=True, size=10)
block.close()
block.unlink()
"""


def test_what_nobody_looks_after_is_reclaimed_by_the_next_program() -> None:
    name = run(CREATE_AND_DIE).stdout.strip()
    assert path_of(name).exists()
    with open(path_of(name), "rb") as user:
        fcntl.flock(user, fcntl.LOCK_SH)
        assert run(CREATE).returncode == 0
        assert path_of(name).exists()  # somebody uses it
    assert run(CREATE).returncode == 0
    assert not path_of(name).exists()


def test_memory_that_is_not_there_is_an_error_at_creation(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(shared_memory, "_make_filename", lambda: "/polyproc-test-full")
    with pytest.raises(OSError, match="1000 bytes") as caught:
        SharedMemory(create=True, size=1000)
    assert caught.value.errno == errno.ENOSPC
    assert not path_of("polyproc-test-full").exists()


FULL = """
import ctypes, errno, os, sys
from polyproc.shared_memory import ShareableList, SharedMemory
libc = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, RECURSIVE, PRIVATE = 0x20000, 0x4000, 1 << 18
if (
    libc.unshare(NEW_MOUNTS)
    or libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None)
    or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=1m")
):
    sys.exit("no right to mount")
for create in (
    lambda: SharedMemory(create=True, size=8 << 20),
    lambda: ShareableList([b"x" * (8 << 20)]),
):
    try:
        create()
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    else:
        raise AssertionError("there was room")
    assert os.listdir("/dev/shm") == []
block = SharedMemory(create=True, size=1000)
block.buf[:5] = b"hello"
block.close()
block.unlink()
print("done")
"""


def test_a_full_file_system_of_blocks_is_an_error_and_not_a_death() -> None:
    done = run(FULL)
    if done.stderr == "no right to mount\n":
        pytest.skip("this process may not mount a small /dev/shm")
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


CREATE_AND_WAIT = """
import sys
from polyproc.shared_memory import SharedMemory
block = SharedMemory(create=True, size=10)
block.buf[:5] = b"hello"
print(block.name, flush=True)
sys.stdin.read()
"""


def test_a_killed_creator_leaves_the_memory_to_its_users_and_no_name() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CREATE_AND_WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as creator:
        assert creator.stdout is not None
        name = creator.stdout.readline().decode().strip()
        user = SharedMemory(name=name)
        creator.kill()
    until(lambda: not path_of(name).exists())
    assert bytes(user.buf[:5]) == b"hello"
    user.close()


def test_a_block_is_backed_by_memory_from_the_start() -> None:
    block = SharedMemory(create=True, size=1_000_000)
    try:
        assert path_of(block.name).stat().st_blocks * 512 >= 1_000_000
    finally:
        block.close()
        block.unlink()


def double(name: str) -> None:
    numbers = ShareableList(name=name)
    for index, number in enumerate(numbers):
        numbers[index] = number * 2
    numbers.shm.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_list_is_shared_by_name(method: str) -> None:
    numbers: Any = ShareableList([1, 2.5, "ab", b"c"])
    try:
        process = mp.get_context(method).Process(target=double, args=(numbers.shm.name,))
        process.start()
        process.join(TIME)
        assert process.exitcode == 0
        assert list(numbers) == [2, 5.0, "abab", b"cc"]
    finally:
        numbers.shm.close()
        numbers.shm.unlink()


def test_a_manager_unlinks_what_it_has_made() -> None:
    from polyproc.managers import SharedMemoryManager

    with SharedMemoryManager() as manager:
        block = manager.SharedMemory(100)
        numbers = manager.ShareableList([1, 2])
        names = [block.name, numbers.shm.name]
        assert all(path_of(name).exists() for name in names)
        block.close()
        numbers.shm.close()
    assert not any(path_of(name).exists() for name in names)
