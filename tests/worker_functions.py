"""What workers do in tests: functions of one list of words, found by name in another process."""

import os
import signal
import sys
import time
from pathlib import Path


def obey(words, num_runs) -> int:
    """Does what the first word says; the second is a file to write to, or a number."""
    return _ORDERS[words[0]](*words[1:])


def _say(text: str) -> int:
    print(text)
    print(f"{text} on stderr", file=sys.stderr)
    os.system(f"echo {text} of a child")
    return 0


def _note_process(path: str) -> int:
    with open(path, "a") as file:
        file.write(f"{os.getpid()} {os.environ.get('BFC_TEST', 'unset')}\n")
    os.environ["BFC_TEST"] = "set"
    return 0


def _hold(path: str) -> int:
    """Keeps its worker for a while, so that the next task needs another."""
    Path(path).write_text(os.environ["BFC_TEST"])
    time.sleep(0.5)
    return 0


def _die(number: str) -> int:
    os.kill(os.getpid(), int(number))
    return 0


def _raise(text: str) -> int:
    raise RuntimeError(text)


def _sleep(path: str, seconds: str) -> int:
    with open(path, "a") as file:
        file.write(f"start {time.monotonic()}\n")
    time.sleep(float(seconds))
    with open(path, "a") as file:
        file.write(f"stop {time.monotonic()}\n")
    return 0


def _save_when_stopped(path: str) -> int:
    """Like `bfc fit`: counts the signals for a while after the first, then ends by itself."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: received.append(signum))
    Path(path).write_text(f"ready {os.getpid()}")
    while not received:
        time.sleep(0.02)
    time.sleep(0.6)
    Path(path).write_text(f"saved after {received}")
    return 143


def _ignore_signals(path: str) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(path).write_text(f"ready {os.getpid()}")
    time.sleep(60)
    return 0


_ORDERS = {
    "say": _say,
    "note": _note_process,
    "hold": _hold,
    "return": int,
    "exit": lambda number: sys.exit(int(number)),
    "die": _die,
    "raise": _raise,
    "sleep": _sleep,
    "save": _save_when_stopped,
    "ignore": _ignore_signals,
}
