"""A manager's list, Namespace and Value in shared memory: they are what they would be in the server, for all who use them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import TIME

import polyproc as mp
from polyproc import _shared_dict, _shared_list, _shared_log

OFTEN = _shared_log.USES + 10


class Plain:
    """Something that only pickle can write."""

    def __eq__(self, other: object) -> bool:
        return type(other) is Plain

    def __repr__(self) -> str:
        return "Plain()"


VALUES: list[Any] = [1, "x", None, 2.5, [1, 2], {"a": (1, 2)}, Plain(), "y" * 10_000, list(range(50)), b"z" * 3000]


@pytest.fixture
def manager() -> Iterator[Any]:
    with mp.Manager() as manager:
        yield manager


def two_proxies(manager: Any, proxy: Any) -> tuple[Any, Any]:
    """The proxy and another one of the same object, each of which has been used often."""
    place = manager.list([proxy])
    return proxy, place[0]


def told(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except Exception as error:
        return type(error), str(error)


# ------------------------------------------------------------------------------------------------ lists


def refuse_long(item: Any) -> str:
    """A key for sorting that fails for some items."""
    text = repr(item)
    if len(text) > 1000:
        raise ValueError("too long")
    return text


def change(chance: random.Random) -> Callable[[Any], Any]:
    """Something to do with a list; it returns what can be compared."""
    index, value = chance.randrange(-12, 12), chance.choice(VALUES)
    few = [chance.choice(VALUES) for _ in range(chance.randrange(4))]
    part = slice(*sorted(chance.sample(range(-3, 12), 2)))

    def set_part(numbers: Any) -> None:
        numbers[part] = few

    def add(numbers: Any) -> None:
        numbers += few

    def delete(numbers: Any) -> None:
        del numbers[index]

    def delete_part(numbers: Any) -> None:
        del numbers[part]

    return chance.choice(
        [
            *3 * [lambda numbers: numbers.append(value)],
            *3 * [lambda numbers: numbers.__setitem__(index, value)],
            *3 * [lambda numbers: numbers[index]],
            lambda numbers: numbers.pop(),
            lambda numbers: numbers.pop(index),
            lambda numbers: numbers.insert(index, value),
            lambda numbers: numbers.insert(0, Plain()),
            lambda numbers: numbers.extend(few),
            lambda numbers: numbers.reverse(),
            lambda numbers: numbers.sort(key=repr),
            lambda numbers: numbers.remove(value),
            lambda numbers: numbers.count(value),
            lambda numbers: numbers[part],
            lambda numbers: numbers[::-2],
            lambda numbers: numbers["no index"],
            lambda numbers: numbers.sort(key=refuse_long),
            lambda numbers: value in numbers,
            lambda numbers: [*numbers],
            len,
            set_part,
            add,
            delete,
            delete_part,
        ]
    )


def test_a_list_in_memory_is_a_list(manager: Any) -> None:
    chance = random.Random(1)
    ours, theirs = two_proxies(manager, manager.list([1, 2]))
    for _ in range(OFTEN):
        assert len(ours) == len(theirs) == 2
    assert isinstance(ours._replica, _shared_list.ListReplica) and theirs._replica is not ours._replica
    model: list[Any] = [1, 2]
    for _ in range(4000):
        act = change(chance)
        proxy = chance.choice([ours, theirs])
        done = told(lambda act=act, proxy=proxy: act(proxy))
        wanted = told(lambda act=act: act(model))
        assert done == wanted
        if len(model) > 25:
            del model[8:], proxy[8:]
    assert ours[:] == theirs[:] == [*theirs] == ours._getvalue() == model
    assert ours._replica is not None


def test_an_item_that_was_read_is_a_copy(manager: Any) -> None:
    numbers = manager.list([[1]])
    for _ in range(OFTEN):
        numbers[0].append(2)
    assert numbers[0] == [1] and numbers.pop() == [1]


def test_proxies_in_a_list_stay_proxies(manager: Any) -> None:
    inner = manager.list([0])
    outer = manager.list([inner, 1])
    for number in range(OFTEN):
        outer[0].append(number)
        outer[1] = number
    assert len(outer) == 2 and outer[0][:] == inner[:] == [0, *range(OFTEN)] and outer[1] == OFTEN - 1
    assert type(outer.pop(0)) is type(inner)


def test_a_list_that_grows_large_goes_back_to_the_server(manager: Any) -> None:
    numbers = manager.list()
    for number in range(700):
        numbers.append(str(number) * 1000)
        assert numbers[number] == str(number) * 1000
    assert len(numbers) == 700 and numbers.pop() == "699" * 1000


def take_all(numbers: Any, taken: Any) -> None:
    mine = []
    while True:
        try:
            mine.append(numbers.pop())
        except IndexError:
            break
    taken.put(mine)


def test_nothing_is_lost_or_doubled_between_processes(manager: Any, start: Callable[..., Any]) -> None:
    context, times = mp.get_context("fork"), 1500
    numbers, taken = manager.list(range(times)), mp.Queue()
    processes = [start(context, take_all, numbers, taken) for _ in range(3)]
    found = Counter(one for _ in processes for one in taken.get(timeout=TIME))
    assert found == Counter(range(times)) and len(numbers) == 0


def append_for_ever(numbers: Any, name: str) -> None:
    number = 0
    while True:
        numbers.append((name, number))
        number += 1
        if number % 50 == 0:
            numbers[0] = numbers[0]


@pytest.mark.parametrize("seed", range(3))
def test_processes_that_are_killed_leave_a_whole_list(manager: Any, start: Callable[..., Any], seed: int) -> None:
    chance = random.Random(seed)
    numbers = manager.list(["first"])
    for round in range(4):
        process = start(mp.get_context("fork"), append_for_ever, numbers, f"p{round}")
        end = time.monotonic() + TIME
        enough = len(numbers) + chance.randrange(50, 400)
        while len(numbers) < enough and time.monotonic() < end:
            pass
        process.kill()
        process.join(TIME)
    numbers.append("last")
    first, *items, last = numbers[:]
    assert (first, last) == ("first", "last") and numbers._getvalue() == [first, *items, last]
    for round in range(4):
        mine = [number for name, number in items if name == f"p{round}"]
        assert mine == list(range(len(mine))) and len(mine) >= 50


# ------------------------------------------------------------------------------------------------ namespaces, values


def test_a_namespace_in_memory_is_a_namespace(manager: Any) -> None:
    chance = random.Random(2)
    ours, theirs = two_proxies(manager, manager.Namespace(a=1))
    for _ in range(OFTEN):
        assert ours.a == theirs.a == 1
    assert isinstance(ours._replica, _shared_dict.DictReplica)
    model: dict[str, Any] = {"a": 1}
    for _ in range(1500):
        proxy, name, value = chance.choice([ours, theirs]), chance.choice("abcd"), chance.choice(VALUES)
        match chance.randrange(4):
            case 0 | 1:
                setattr(proxy, name, value)
                model[name] = value
            case 2 if name in model:
                delattr(proxy, name)
                del model[name]
            case _ if name in model:
                assert getattr(proxy, name) == model[name]
            case _:
                with pytest.raises(AttributeError, match=f"'Namespace' object has no attribute '{name}'"):
                    getattr(proxy, name)
    assert vars(ours._getvalue()) == vars(theirs._getvalue()) == model
    assert str(ours) == f"Namespace({', '.join(sorted(f'{name}={value!r}' for name, value in model.items()))})"
    assert ours._replica is not None and not hasattr(ours, "e")


def count(value: Any, times: int) -> None:
    for number in range(times):
        value.value = number


def test_a_value_in_memory_is_a_value(manager: Any, start: Callable[..., Any]) -> None:
    ours, theirs = two_proxies(manager, manager.Value("i", 7))
    for _ in range(OFTEN):
        ours.value += 1
        assert theirs.get() == ours.value
    assert isinstance(theirs._replica, _shared_dict.DictReplica)
    for value in VALUES:
        ours.set(value)
        assert ours.value == theirs.value == value
    assert str(ours) == str(theirs) == f"Value('i', {VALUES[-1]!r})"
    process = start(mp.get_context("fork"), count, ours, 20_000)
    process.join(TIME)
    assert process.exitcode == 0 and ours.value == theirs.value == 19_999


def test_a_type_that_only_looks_like_a_list_stays_with_the_server() -> None:
    class Manager(mp.managers.BaseManager):
        pass

    common = [1, 2]
    Manager.register("common", lambda: common, mp.managers.ListProxy)
    with Manager(ctx=mp.get_context("fork")) as manager:
        one, other = manager.common(), manager.common()
        for number in range(OFTEN):
            one[0] = number
            assert other[0] == number
        assert one._replica is None
