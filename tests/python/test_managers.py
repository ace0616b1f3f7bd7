"""Managers: shared objects, where they are served from, and what becomes of them when somebody dies."""

from __future__ import annotations

import os
import queue
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TIME, until

import polyproc as mp
from polyproc import _lanes, _shared_dict, _shared_log
from polyproc.errors import HolderDiedWarning
from polyproc.managers import BaseManager, DictProxy, ManagerDiedError, RemoteError, SyncManager

OFTEN = _shared_log.USES + 10


@pytest.fixture(params=["fork", "spawn"])
def context(request: pytest.FixtureRequest) -> Any:
    return mp.get_context(request.param)


@pytest.fixture
def manager() -> Iterator[Any]:
    with mp.Manager() as manager:
        yield manager


def finish(process: Any) -> None:
    process.join(TIME)
    assert process.exitcode == 0


# ------------------------------------------------------------------------------------------------ objects


def use_everything(shared: dict[str, Any]) -> None:
    shared["list"].append(1)
    shared["dict"]["key"] = ["value"]
    shared["namespace"].name = "x"
    shared["value"].value += 1
    shared["array"][1] = 7
    shared["queue"].put((1, 2))
    shared["event"].set()
    with shared["lock"], shared["rlock"], shared["rlock"]:
        pass
    with shared["condition"]:
        shared["condition"].notify_all()


def test_every_kind_of_object_is_shared(manager: Any, context: Any, start: Callable[..., Any]) -> None:
    shared = {
        "list": manager.list(),
        "dict": manager.dict(),
        "namespace": manager.Namespace(),
        "value": manager.Value("i", 1),
        "array": manager.Array("i", [1, 2]),
        "queue": manager.Queue(),
        "event": manager.Event(),
        "lock": manager.Lock(),
        "rlock": manager.RLock(),
        "condition": manager.Condition(),
    }
    finish(start(context, use_everything, shared))
    assert list(shared["list"]) == [1]
    assert shared["dict"].copy() == {"key": ["value"]}
    assert shared["namespace"].name == "x"
    assert shared["value"].value == 2
    assert shared["array"][1] == 7
    assert shared["queue"].get(timeout=TIME) == (1, 2)
    assert shared["event"].wait(TIME)
    assert shared["lock"].acquire(False)
    assert str(shared["list"]) == "[1]"


def test_objects_go_with_their_last_proxy(manager: Any) -> None:
    numbers, words = manager.list([1]), manager.dict()
    assert manager._number_of_objects() == 2
    words["numbers"] = numbers
    del numbers
    assert list(words["numbers"]) == [1]
    del words
    assert manager._number_of_objects() == 0


def test_a_pool_of_a_manager_works(manager: Any) -> None:
    with manager.Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
        assert pool.apply_async(len, ("abc",)).get(TIME) == 3


def test_what_a_method_raises_is_raised_here(manager: Any) -> None:
    with pytest.raises(IndexError):
        manager.list()[1]
    with pytest.raises(KeyError, match="nothing"):
        manager.dict()["nothing"]
    with pytest.raises(queue.Empty):
        manager.Queue().get_nowait()
    with pytest.raises(RemoteError, match="no_such_method"):
        manager.list()._callmethod("no_such_method")


class Unreadable:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_what_cannot_be_unpickled_there_is_an_error_here(manager: Any) -> None:
    numbers = manager.list()
    with pytest.raises(RemoteError, match="not a number"):
        numbers.append(Unreadable())
    numbers.append(1)
    assert list(numbers) == [1]


def iterate(words: Any, result: Any) -> None:
    result.put(sorted(words))


def test_a_dict_is_iterated_by_a_process_that_has_no_manager(manager: Any, start: Callable[..., Any]) -> None:
    words, result = manager.dict(a=1, b=2), mp.Queue()
    process = start(mp.get_context("fork"), iterate, words, result)
    assert result.get(timeout=TIME) == ["a", "b"]
    finish(process)


def test_a_blocking_call_keeps_nobody_else_waiting(manager: Any) -> None:
    items, words = manager.Queue(), manager.dict()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(items.get()))
    thread.start()
    words["key"] = 1
    assert words["key"] == 1
    items.put("item")
    thread.join(TIME)
    assert got == ["item"]


def test_a_call_that_was_interrupted_spoils_no_later_one(manager: Any) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    items, numbers = manager.Queue(), manager.list([1])
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(Interrupted):
            items.get()
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert list(numbers) == [1]
    assert items.empty()
    assert numbers[0] == 1


# ------------------------------------------------------------------------------------------------ registered and remote


class Counter:
    def __init__(self, start: int = 0) -> None:
        self._count = start

    def next(self) -> int:
        self._count += 1
        return self._count


class CounterManager(BaseManager):
    pass


CounterManager.register("Counter", Counter)


def test_a_registered_type_has_proxies() -> None:
    with CounterManager() as manager:
        counter = manager.Counter(5)  # type: ignore[attr-defined]
        assert [counter.next(), counter.next()] == [6, 7]


_words = {"key": "value"}


class RemoteManager(BaseManager):
    pass


RemoteManager.register("words", lambda: _words, DictProxy)

REMOTE = """
import sys
from multiprocessing.managers import BaseManager, DictProxy
class RemoteManager(BaseManager): pass
RemoteManager.register("words", proxytype=DictProxy)
manager = RemoteManager(address=eval(sys.argv[1]), authkey=b"key")
manager.connect()
words = manager.words()
for _ in range(50):
    assert words["key"] == "value"
words["other"] = [1, 2]
print(sorted(words.keys()))
"""


@pytest.mark.parametrize("address", [None, ("127.0.0.1", 0)])
def test_the_standard_librarys_programs_use_a_manager_by_its_address(address: Any) -> None:
    with RemoteManager(address, b"key", ctx=mp.get_context("fork")) as manager:
        words = manager.words()  # type: ignore[attr-defined]
        done = subprocess.run(
            [sys.executable, "-c", REMOTE, repr(manager.address)], capture_output=True, text=True, timeout=60
        )
        assert (done.stderr, done.stdout) == ("", "['key', 'other']\n")
        assert words["other"] == [1, 2]


def test_a_wrong_key_is_refused(manager: Any) -> None:
    stranger = SyncManager(manager.address, b"another key")
    with pytest.raises(mp.AuthenticationError):
        stranger.connect()


def test_a_manager_starts_again_at_the_same_address(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    for number in range(2):
        with SyncManager(address, b"key") as manager:
            numbers = manager.list([number])
            assert list(numbers) == [number]
        assert not os.path.exists(address)


# ------------------------------------------------------------------------------------------------ dicts in shared memory


def count_up(words: Any, name: str, times: int) -> None:
    for number in range(times):
        words[name] = number
        assert words[name] == number


def test_a_busy_dict_is_served_from_memory_and_all_see_the_same(
    manager: Any, context: Any, start: Callable[..., Any]
) -> None:
    words = manager.dict()
    for process in [start(context, count_up, words, name, 3000) for name in "abcd"]:
        finish(process)
    count_up(words, "e", OFTEN)
    assert isinstance(words._replica, _shared_dict.DictReplica)
    assert words.copy() == {**dict.fromkeys("abcd", 2999), "e": OFTEN - 1}
    assert sorted(words) == list("abcde")
    assert [words.get(name) for name in "ax"] == [2999, None]
    assert "a" in words and "x" not in words


class Plain:
    def __eq__(self, other: object) -> bool:
        return type(other) is Plain

    def __hash__(self) -> int:
        return 1


VALUES: list[Any] = [1, "x", None, 2.5, [1, 2], {"a": (1, 2)}, Plain(), "y" * 10_000, list(range(50)), b"z" * 3000]
KEYS: list[Any] = [*range(4), "a", ("b", 1), Plain(), 1.5]


def test_a_dict_in_memory_is_a_dict(manager: Any) -> None:
    chance = random.Random(1)
    words, model = manager.dict(), {}
    count_up(words, "warm", OFTEN)
    model["warm"] = OFTEN - 1
    for _ in range(4000):
        key, value = chance.choice(KEYS), chance.choice(VALUES)
        match chance.randrange(9):
            case 0 | 1 | 2:
                words[key] = model[key] = value
            case 3:
                assert words.get(key, "nothing") == model.get(key, "nothing")
            case 4:
                assert words.pop(key, None) == model.pop(key, None)
            case 5:
                assert words.setdefault(key, value) == model.setdefault(key, value)
            case 6 if key in model:
                del words[key], model[key]
            case 6:
                with pytest.raises(KeyError):
                    del words[key]
            case 7 if key in model:
                assert words[key] == model[key]
            case 7:
                with pytest.raises(KeyError):
                    words[key]
            case 8:
                words.update({key: value}, other=1)
                model.update({key: value}, other=1)
        assert (key in words) == (key in model)
    assert words.copy() == model
    assert list(words.keys()) == list(model)
    words.clear()
    assert len(words) == 0 and "warm" not in words


def test_a_value_that_was_read_is_a_copy(manager: Any) -> None:
    words = manager.dict(numbers=[1])
    for _ in range(OFTEN):
        words["numbers"].append(2)
    assert words["numbers"] == [1]


def test_a_dict_that_grows_large_goes_back_to_the_server(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words = manager.dict()
    count_up(words, "key", OFTEN)
    for number in range(300):
        words[number] = str(number) * 1000
    assert all(words[number] == str(number) * 1000 for number in range(300))
    assert len(words) == 301


def hold_and_die(words: Any, ready: Any) -> None:
    count_up(words, "mine", OFTEN)
    with words._replica.locked():
        ready.set()
        signal.pause()


def test_a_process_that_is_killed_while_it_writes_a_dict_stops_nobody(manager: Any, start: Callable[..., Any]) -> None:
    words, ready = manager.dict(), mp.Event()
    count_up(words, "ours", OFTEN)
    process = start(mp.get_context("fork"), hold_and_die, words, ready)
    assert ready.wait(TIME)
    process.kill()
    process.join(TIME)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HolderDiedWarning)
        words["ours"] = -1
    assert words.copy() == {"ours": -1, "mine": OFTEN - 1}


# ------------------------------------------------------------------------------------------------ deaths


def test_a_server_that_was_killed_is_named_by_every_call() -> None:
    manager = mp.Manager()
    busy, numbers, lock, items = manager.dict(), manager.list(), manager.Lock(), manager.Queue()
    count_up(busy, "key", OFTEN)
    seen: list[BaseException] = []

    def wait() -> None:
        try:
            items.get()
        except BaseException as error:
            seen.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: len(_lanes._routes) > 0 and waiting.is_alive())
    pid = manager._process.pid  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGKILL)
    waiting.join(TIME)
    says = rf"\(pid {pid}\) was killed by SIGKILL"
    with pytest.raises(ManagerDiedError, match=says):
        raise seen[0]
    for call in (lambda: busy["key"], lambda: numbers.append(1), lock.acquire, manager.list):
        with pytest.raises((EOFError, ConnectionError), match=says):
            call()
    with pytest.raises(ManagerDiedError, match=says):
        busy["key"] = 1
    directory = os.path.dirname(manager.address)  # type: ignore[arg-type]
    manager.shutdown()
    assert not os.path.exists(directory)


def test_a_server_that_was_shut_down_is_named() -> None:
    with mp.Manager() as manager:
        numbers = manager.list()
    with pytest.raises(ManagerDiedError, match="was shut down"):
        numbers.append(1)


def fail() -> None:
    raise SystemExit(3)


def test_a_server_that_does_not_come_up_is_an_error() -> None:
    manager = SyncManager(ctx=mp.get_context("fork"))
    with pytest.raises(ManagerDiedError, match="ended with exit code 3 before it could serve"):
        manager.start(fail)


def take(lock: Any, connection: Any, how: str) -> None:
    lock.acquire()
    connection.send("taken")
    if how == "killed":
        signal.pause()


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "Condition"])
def test_a_lock_of_a_killed_process_is_released_with_a_warning(
    manager: Any, start: Callable[..., Any], kind: str
) -> None:
    lock = getattr(manager, kind)()
    ours, theirs = mp.Pipe()
    process = start(mp.get_context("fork"), take, lock, theirs, "killed")
    assert ours.recv() == "taken"
    assert not lock.acquire(False)
    process.kill()
    with pytest.warns(HolderDiedWarning, match=f"process {process.pid} ended while it held this {kind}"):
        assert lock.acquire(True, TIME)
    lock.release()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lock.acquire(True, TIME)


@pytest.mark.parametrize("kind", ["Lock", "BoundedSemaphore"])
def test_a_lock_of_a_process_that_ended_in_order_is_left_to_others(
    manager: Any, start: Callable[..., Any], kind: str
) -> None:
    lock = getattr(manager, kind)()
    ours, theirs = mp.Pipe()
    finish(start(mp.get_context("fork"), take, lock, theirs, "in order"))
    assert not lock.acquire(True, 0.2)
    lock.release()
    assert lock.acquire(False)


ORPHAN = """
import polyproc as mp, signal
manager = mp.Manager()
words = manager.dict(a=1)
print(manager._process.pid, manager.address, flush=True)
signal.pause()
"""


def test_a_server_ends_with_its_program_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    program = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True, env=environment)
    assert program.stdout is not None
    pid, address = program.stdout.readline().split()
    server = os.pidfd_open(int(pid))
    try:
        assert os.path.exists(address)
        program.kill()
        program.wait()
        assert mp.connection.wait([server], TIME)
    finally:
        program.stdout.close()
        os.close(server)
    assert not list(tmp_path.iterdir())
