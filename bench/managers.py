"""Measurements of managers: what one client, and what four at a time, do to an object in a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yardstick import Bench, Measurement, now


def get_key(words: Any, count: int) -> None:
    for _ in range(count):
        words["key"]


def set_key(words: Any, count: int) -> None:
    for number in range(count):
        words["key"] = number


def get_item(numbers: Any, count: int) -> None:
    for _ in range(count):
        numbers[1]


def set_item(numbers: Any, count: int) -> None:
    for number in range(count):
        numbers[1] = number


def append_and_pop(numbers: Any, count: int) -> None:
    for number in range(count // 2):
        numbers.append(number)
        numbers.pop()


def get_attribute(namespace: Any, count: int) -> None:
    for _ in range(count):
        namespace.name


def set_attribute(namespace: Any, count: int) -> None:
    for number in range(count):
        namespace.name = number


def count_up(value: Any, count: int) -> None:
    for _ in range(count // 2):
        value.value += 1


def put_and_get(queue: Any, count: int) -> None:
    for number in range(count // 2):
        queue.put(number)
        queue.get()


def take_and_give(lock: Any, count: int) -> None:
    for _ in range(count // 2):
        lock.acquire()
        lock.release()


MAKE: dict[str, Callable[[Any], Any]] = {
    "dict": lambda manager: manager.dict(key=0),
    "list": lambda manager: manager.list(range(4)),
    "Namespace": lambda manager: manager.Namespace(name=0),
    "Value": lambda manager: manager.Value("i", 0),
    "Queue": lambda manager: manager.Queue(),
    "Lock": lambda manager: manager.Lock(),
}


def one_client(bench: Bench, kind: str, act: Callable[[Any, int], None]) -> float:
    """This process does it: calls per second."""
    with bench.mp.Manager() as manager:
        shared = MAKE[kind](manager)

        def lot(count: int) -> float:
            start = now()
            act(shared, count)
            return now() - start

        lot(200)
        count = bench.often_enough(lot(500), 500, 500)
        count = bench.often_enough(lot(count), count, 500)
        return count / lot(count)


def client(shared: Any, act: Callable[[Any, int], None], orders: Any, done: Any) -> None:
    act(shared, 200)
    done.send(None)
    while (count := orders.recv()) is not None:
        act(shared, count)
        done.send(None)


def four_clients(bench: Bench, kind: str, act: Callable[[Any, int], None]) -> float:
    """Four processes do it to one object: calls per second of all together, until the last is ready."""
    with bench.mp.Manager() as manager:
        shared = MAKE[kind](manager)
        ways = []
        for _ in range(4):
            (orders, theirs), (back, done) = bench.mp.Pipe(), bench.mp.Pipe()
            bench.child(client, shared, act, theirs, done)
            ways.append((orders, back))

        def wait() -> None:
            for _, back in ways:
                back.recv()

        def lot(count: int) -> float:
            start = now()
            for orders, _ in ways:
                orders.send(count // 4)
            wait()
            return now() - start

        wait()
        count = bench.often_enough(lot(800), 800, 800)
        count = bench.often_enough(lot(count), count, 800)
        rate = count / lot(count)
        for orders, _ in ways:
            orders.send(None)
        return rate


def row(
    name: str, what: str, kind: str, act: Callable[[Any, int], None], required: float | None, clients: int = 1
) -> Measurement:
    measured = one_client if clients == 1 else four_clients
    return Measurement(f"manager_{name}", what, "calls/s", lambda bench: measured(bench, kind, act), True, required)


MANAGERS = (
    row("dict_get", "Manager: dict, get", "dict", get_key, 20),
    row("dict_set", "Manager: dict, set", "dict", set_key, 20),
    row("dict_get_4", "Manager: dict, get, 4 clients", "dict", get_key, 10, 4),
    row("dict_set_4", "Manager: dict, set, 4 clients", "dict", set_key, 10, 4),
    row("list_get", "Manager: list, get", "list", get_item, None),
    row("list_set", "Manager: list, set", "list", set_item, None),
    row("list_append", "Manager: list, append and pop", "list", append_and_pop, None),
    row("namespace_get", "Manager: Namespace, get", "Namespace", get_attribute, None),
    row("namespace_set", "Manager: Namespace, set", "Namespace", set_attribute, None),
    row("value", "Manager: Value, += 1", "Value", count_up, None),
    row("queue", "Manager: Queue, put and get", "Queue", put_and_get, None),
    row("lock", "Manager: Lock, acquire and release", "Lock", take_and_give, None),
)
