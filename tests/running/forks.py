"""`fit` in a process of its own, to be killed or to be one of two.

Each is forked from a server that has imported everything and computed nothing: a process that has
run autograd itself may not be forked. What is done in it first, `before`, must be picklable.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import torch

from tests.conftest import guard_sockets

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.running.forks", "dlreview.running.session",
                                  "dlreview.running.trainer", "dlreview.running.trial",
                                  "dlreview.running.report", "kornia.augmentation"])  # fmt: skip


def child(argv, log, before):
    """Run `fit` on one thread, its output in a file."""
    status = 99
    try:
        multiprocessing.set_start_method("fork", force=True)  # of loader workers, as by default
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        guard_sockets()
        if before is not None:
            before()
        from dlreview.fit import main

        status = main(argv)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(status)


def start(argv: list[str], log: Path, before=None):
    """Start a process; `before` is called in it first."""
    process = PROCESSES.Process(target=child, args=(argv, log, before))
    process.start()
    return process


def finish(process, seconds: float = 240) -> int:
    """Wait for a process; return its exit status, negative for a signal."""
    process.join(seconds)
    if process.exitcode is None:  # it hangs: fail rather than wait for ever
        process.kill()
        process.join()
    return process.exitcode


def fit(argv: list[str], log: Path, before=None) -> int:
    """Run `fit` to its end."""
    return finish(start(argv, log, before))


def reached(run: Path, step: int, process, seconds: float = 120) -> None:
    """Wait until a run's log has a line of `step`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            lines = (run / "metrics.csv").read_text().splitlines()[1:]
            if lines and int(lines[-1].split(",")[0]) >= step:
                return
        assert process.exitcode is None, "the run ended before it was killed"
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached")


def differences(one, other, path=""):
    """Yield where two checkpoints differ, bit for bit."""
    if isinstance(one, dict):
        if set(one) != set(other):
            yield f"{path}: {set(one) ^ set(other)}"
        for key in one:
            if key in other:
                yield from differences(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{path}: {len(one)} != {len(other)}"
        for position, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from differences(a, b, f"{path}.{position}")
    elif torch.is_tensor(one):
        if not torch.equal(one, other):
            yield f"{path}: off by {(one - other).abs().max()}"
    elif one != other:
        yield f"{path}: {one!r} != {other!r}"


def checkpoint(run: Path):
    """Load a run's last checkpoint as anyone may: nothing in it is code."""
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for name, callback in state["callbacks"].items():
        if name.startswith("ModelCheckpoint"):  # it keeps its files' paths, and forgets its score
            state["callbacks"][name] = {"best": callback["best_model_score"]}
    return state
