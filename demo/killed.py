"""Part 3: a process is killed while it holds a lock, and the others do its work."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageStat

import terminal

PATIENCE = float(os.environ.get("DEMO_PATIENCE", "30"))


def work(lock: Any, following: Any, brightness: Any, pictures: list[Path], fatal: int) -> None:
    """Takes one picture after the other from a shared list; which is next stands in `following`, under the lock."""
    while True:
        with lock:
            mine = following.value
            if mine == fatal:
                # Killed here: the lock is held, and nobody has been told that this picture was taken.
                os.kill(os.getpid(), signal.SIGKILL)
            if mine >= len(pictures):
                return
            following.value = mine + 1
        with Image.open(pictures[mine]) as image:
            brightness[mine] = ImageStat.Stat(image.convert("L")).mean[0]


def run(mp: Any, pictures: list[Path], workers: int) -> bool:
    pictures = pictures[:100]
    fatal = len(pictures) // 2
    lock = mp.Lock()
    following = mp.Value("i", 0, lock=False)
    brightness = mp.Array("d", [-1.0] * len(pictures), lock=False)
    shared = (lock, following, brightness, pictures)

    terminal.say(f"{workers + 1} processes share a list of {len(pictures)} pictures; one kills itself at number {fatal}, with the lock held.")
    terminal.say("What the user sees on standard error:")
    terminal.say()
    victim = mp.Process(target=work, args=(*shared, fatal), name="victim")
    victim.start()
    others: list[Any] = []
    try:
        # The victim alone at first, so that it is surely the one that comes to the fatal picture.
        victim.join(PATIENCE)
        died = time.perf_counter()
        others = [mp.Process(target=work, args=(*shared, -1), name=f"worker-{number}") for number in range(1, workers + 1)]
        for process in others:
            process.start()
        for process in others:
            process.join(max(0.0, died + PATIENCE - time.perf_counter()))
        taken = time.perf_counter() - died
    finally:
        stuck = [process for process in (victim, *others) if process.is_alive()]
        for process in stuck:
            process.kill()
            process.join()
    terminal.say()
    done = sum(value >= 0 for value in brightness)
    terminal.row("the victim", f"pid {victim.pid}", None, f"exit code {victim.exitcode} (killed by signal {-(victim.exitcode or 0)})")
    if stuck:
        terminal.row("the others", terminal.red(f"{len(stuck)} still waited"), None, f"after {PATIENCE:.0f} s, and were ended")
    else:
        terminal.row("the others", "all ended by themselves", None, f"{taken:.2f} s after the death")
    verdict = terminal.green if done == len(pictures) else terminal.red
    terminal.row("the work", verdict(f"{done} of {len(pictures)} pictures done"))
    return not stuck and done == len(pictures) and victim.exitcode == -signal.SIGKILL
