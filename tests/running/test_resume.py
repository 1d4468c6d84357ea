"""Killed and resumed equals unbroken, bit for bit: weights, averages, optimizer, metrics."""

import os
import signal
import time

import pytest
import torch

from dlreview.running import checkpoints
from tests.running.forks import (
    SMALL,
    arguments,
    checkpoint,
    differences,
    finish,
    fit,
    reached,
    start,
)


@pytest.fixture(scope="module", params=SMALL)
def unbroken(request, tmp_path_factory):
    """Return a recipe's name and its run without a break."""
    folder = tmp_path_factory.mktemp(request.param)
    assert fit(arguments(request.param, folder / "run"), folder / "log") == 0, (
        folder / "log"
    ).read_text()
    return request.param, folder / "run"


def die_inside_a_save(nth):
    """Return a hook: the process is killed when half of its nth checkpoint is on the disk."""

    def hook():
        whole, saves = torch.save, 0

        def half(state, file):
            nonlocal saves
            saves += 1
            whole(state, file)
            if saves == nth:
                file.truncate(file.tell() // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoints.torch.save = half

    return hook


@pytest.mark.parametrize("more", [(), ("--data.num_workers", "2")], ids=["plain", "workers"])
def test_broken_equals_unbroken(unbroken, tmp_path, more):
    name, whole = unbroken
    run, log = tmp_path / "run", tmp_path / "log"
    argv = arguments(name, run, *more, "--checkpoint_every", "4")
    again = [*argv, "--resume"]

    process = start(argv, log)  # killed in the middle of an epoch
    reached(run, 7, process)
    os.kill(process, signal.SIGKILL)
    assert finish(process) == -signal.SIGKILL

    assert fit(again, log, die_inside_a_save(2)) == -signal.SIGKILL
    assert (run / "checkpoints" / ".last.ckpt.tmp").exists(), "it died while writing"
    before = checkpoint(run)["global_step"]

    process = start(again, log)  # Ctrl-C
    reached(run, before + 3, process)
    os.kill(process, signal.SIGINT)
    assert finish(process) == 130, log.read_text()
    assert checkpoint(run)["global_step"] > before

    process = start(again, log)  # killed anywhere
    time.sleep(0.7)
    os.kill(process, signal.SIGKILL)
    finish(process)

    assert fit(again, log) == 0, log.read_text()
    assert not list(differences(checkpoint(whole), checkpoint(run)))
    assert (run / "checkpoints" / "best.ckpt").exists()
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()


def test_a_finished_run_is_left_alone(unbroken, tmp_path):
    name, whole = unbroken
    state = {p: p.stat().st_mtime_ns for p in whole.rglob("*")}
    assert fit(arguments(name, whole, "--resume"), tmp_path / "log") == 0
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*")} == state


def test_killed_while_writing_the_model_it_completes_it(unbroken, tmp_path):
    name, whole = unbroken
    run, log = tmp_path / "run", tmp_path / "log"

    def hook():
        from dlreview import saved

        saved.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

    argv = arguments(name, run)
    assert fit(argv, log, hook) == -signal.SIGKILL
    assert not (run / "model").exists()
    assert fit([*argv, "--resume"], log) == 0, log.read_text()
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def test_killed_before_its_first_checkpoint_it_starts_again(unbroken, tmp_path):
    name, whole = unbroken
    run, log = tmp_path / "run", tmp_path / "log"
    argv = arguments(name, run)
    assert fit(argv, log, die_inside_a_save(1)) == -signal.SIGKILL
    assert not (run / "checkpoints" / "last.ckpt").exists()
    assert fit([*argv, "--resume"], log) == 0, log.read_text()
    assert not list(differences(checkpoint(whole), checkpoint(run)))


def test_a_full_disk_keeps_the_earlier_checkpoint_and_says_so(unbroken, tmp_path):
    name, _ = unbroken
    run, log = tmp_path / "run", tmp_path / "log"

    def hook():
        whole, lasts = torch.save, 0

        class Full:
            def __init__(self, file):
                self.file, self.left = file, 20_000

            def write(self, data):
                self.left -= len(data)
                if self.left < 0:
                    raise OSError(28, os.strerror(28))
                return self.file.write(data)

            def __getattr__(self, name):
                return getattr(self.file, name)

        def save(state, file):
            nonlocal lasts
            lasts += ".last.ckpt" in file.name
            whole(state, file if lasts < 2 else Full(file))

        checkpoints.torch.save = save

    assert fit(arguments(name, run), log, hook) == 1
    last = log.read_text().rstrip().splitlines()[-1]
    assert "disk is full" in last
    assert "intact" in last
    assert checkpoint(run)["global_step"] > 0
    assert {"last.ckpt"} <= set(os.listdir(run / "checkpoints")) <= {"last.ckpt", "best.ckpt"}


def test_another_recipe_is_not_resumed(unbroken, tmp_path):
    name, whole = unbroken
    log = tmp_path / "log"
    argv = arguments(name, whole, "--resume", "--seed_everything", "5")
    assert fit(argv, log) == 2
    assert "seed_everything" in log.read_text()


def test_a_resolved_recipe_is_a_recipe(unbroken, tmp_path, monkeypatch):
    _, whole = unbroken
    monkeypatch.chdir(tmp_path)
    argv = [str(whole / "config.yaml"), "--wandb", "off", "--out", "again"]
    assert fit(argv, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert not list(differences(checkpoint(whole), checkpoint(tmp_path / "again")))
