"""A storm over a pool: workers are killed all the time, and each task is answered once, and run once at most.

As a command, at full size:

    python tests/python/pool_storm.py --method forkserver
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import polyproc as mp

#: How often each task was begun; in the workers.
_begun: Any = None


#: At a place that its pid gives, each worker notes its pid when it has been started.
PLACES = 1 << 16


def _begin(begun: Any, started: Any) -> None:
    global _begun
    _begun = begun
    started[os.getpid() % PLACES] = os.getpid()


def task(number: int) -> int:
    _begun[number] += 1
    # Long enough to be killed in.
    return sum(range(2000)) * 0 + number * number


def resident() -> int:
    """Bytes that this process has for itself."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    """How many descriptors are open in this process."""
    return len(os.listdir("/proc/self/fd"))


def storm(method: str, tasks: int, workers: int, every: float, seed: int) -> dict[str, float]:
    """Has ``tasks`` tasks done while a worker is killed every ``every`` seconds. Tells what happened; raises if it is wrong.

    Under fork any worker is killed, whatever it is at. Under the other methods only workers that have been started to the
    end: their start takes longer, and on a busy machine, with a kill every few milliseconds, none would come to a task.
    """
    context = mp.get_context(method)
    begun, started = context.RawArray("b", tasks), context.RawArray("i", PLACES)
    choice = random.Random(seed)
    stop, kills = threading.Event(), 0
    with context.Pool(workers, _begin, (begun, started)) as pool:

        def kill() -> None:
            nonlocal kills
            while not stop.wait(every):
                pids = [worker.pid for worker in list(pool._pool) if worker.pid is not None]
                alive = [pid for pid in pids if method == "fork" or started[pid % PLACES] == pid]
                if alive:
                    try:
                        os.kill(choice.choice(alive), signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                    kills += 1

        killer = threading.Thread(target=kill)
        killer.start()
        since = time.monotonic()
        third = tasks // 3
        try:
            single = [pool.apply_async(task, (number,)) for number in range(third)]
            answers: list[Any] = []
            for result in single:
                try:
                    answers.append(result.get(60))
                except mp.WorkerDiedError as error:
                    # Its traceback would keep this frame, and the pool in it, until the collector comes.
                    answers.append(error.with_traceback(None))
            answers += pool.map(task, range(third, 2 * third), on_error="return")
            answers += pool.imap(task, range(2 * third, tasks), on_error="return")
        finally:
            stop.set()
            killer.join()
        seconds = time.monotonic() - since
    pool.join()
    assert len(answers) == tasks
    died = 0
    for number, answer in enumerate(answers):
        if isinstance(answer, mp.WorkerDiedError):
            died += 1
            assert begun[number] <= 1, f"task {number}, which died, was begun {begun[number]} times"
        else:
            assert answer == number * number, f"task {number} was answered with {answer!r}"
            assert begun[number] == 1, f"task {number} was begun {begun[number]} times"
    return {"kills": kills, "died": died, "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="fork", choices=["fork", "spawn", "forkserver"])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--every", type=float, default=0.005, help="seconds between two kills")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    print(f"seed {asked.seed}")
    for number in range(asked.rounds):
        told = storm(asked.method, asked.tasks, asked.workers, asked.every, asked.seed + number)
        left = f"{resident() / 2**20:.1f} MiB, {descriptors()} descriptors, children: {mp.active_children()}"
        print(told, left, flush=True)


if __name__ == "__main__":
    main()
