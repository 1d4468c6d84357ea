"""Killed and resumed equals unbroken, bit for bit: weights, averages, optimizer, metrics.

Real processes are killed on two recipes, one with averaged weights and one whose state goes on from
batch to batch. All others are stopped by Ctrl-C's flag and resumed in this process.
"""

import contextlib
import csv
import io
import os
import shlex
import signal
import sys
import time

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI

from dlreview import sample
from dlreview.fit import main
from dlreview.running import checkpoints
from tests.running.forks import checkpoint, differences, finish, fit, reached, start
from tests.running.recipes import EMBEDDED, ONE_EACH, arguments, half_batch

KILLED = ("quickstart", "language_model_lstm_python")


@pytest.fixture(scope="module", params=KILLED)
def unbroken(request, tmp_path_factory):
    """Return a recipe's name and its run without a break."""
    folder = tmp_path_factory.mktemp(request.param)
    assert fit(arguments(request.param, folder / "run"), folder / "log") == 0, (
        folder / "log"
    ).read_text()
    return request.param, folder / "run"


class DieInsideASave:
    """Kills the process when half of its nth checkpoint is on the disk."""

    def __init__(self, nth):
        self.nth, self.saves = nth, 0

    def __call__(self):
        self.whole = torch.save
        checkpoints.torch.save = self.half

    def half(self, state, file):
        self.saves += 1
        self.whole(state, file)
        if self.saves == self.nth:
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def die_at_the_end():
    """Let the process be killed when it is to write `model/`."""
    from dlreview import saved

    saved.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


class Full:
    """A file on a disk that has 20 kB left."""

    def __init__(self, file):
        self.file, self.left = file, 20_000

    def write(self, data):
        self.left -= len(data)
        if self.left < 0:
            raise OSError(28, os.strerror(28))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def fill_the_disk():
    """Let the second `last.ckpt` meet a full disk."""
    whole, lasts = torch.save, 0

    def save(state, file):
        nonlocal lasts
        lasts += ".last.ckpt" in file.name
        whole(state, file if lasts < 2 else Full(file))

    checkpoints.torch.save = save


@pytest.mark.parametrize("more", [(), ("--data.num_workers", "2")], ids=["plain", "workers"])
def test_broken_equals_unbroken(unbroken, tmp_path, more):
    name, whole = unbroken
    run, log = tmp_path / "run", tmp_path / "log"
    argv = arguments(name, run, *more, "--checkpoint_every", "4")
    again = [*argv, "--resume"]

    process = start(argv, log)  # killed in the middle of an epoch
    reached(run, 7, process)
    os.kill(process.pid, signal.SIGKILL)
    assert finish(process) == -signal.SIGKILL

    assert fit(again, log, DieInsideASave(2)) == -signal.SIGKILL
    assert (run / "checkpoints" / ".last.ckpt.tmp").exists(), "it died while writing"
    before = checkpoint(run)["global_step"]

    process = start(again, log)  # Ctrl-C
    reached(run, before + 3, process)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 130, log.read_text()
    assert checkpoint(run)["global_step"] > before

    process = start(again, log)  # killed anywhere
    time.sleep(0.7)
    os.kill(process.pid, signal.SIGKILL)
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

    argv = arguments(name, run)
    assert fit(argv, log, die_at_the_end) == -signal.SIGKILL
    assert not (run / "model").exists()
    assert fit([*argv, "--resume"], log) == 0, log.read_text()
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def test_killed_before_its_first_checkpoint_it_starts_again(unbroken, tmp_path):
    name, whole = unbroken
    run, log = tmp_path / "run", tmp_path / "log"
    argv = arguments(name, run)
    assert fit(argv, log, DieInsideASave(1)) == -signal.SIGKILL
    assert not (run / "checkpoints" / "last.ckpt").exists()
    assert fit([*argv, "--resume"], log) == 0, log.read_text()
    assert not list(differences(checkpoint(whole), checkpoint(run)))


def test_a_full_disk_keeps_the_earlier_checkpoint_and_says_so(unbroken, tmp_path):
    name, _ = unbroken
    run, log = tmp_path / "run", tmp_path / "log"

    assert fit(arguments(name, run), log, fill_the_disk) == 1
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


def stop_at(monkeypatch, step):
    """Let the next run in this process think that Ctrl-C was pressed at a step."""
    whole = checkpoints.Checkpoints.on_train_batch_end

    def hook(self, trainer, *rest):
        whole(self, trainer, *rest)
        self.interrupted = self.interrupted or trainer.global_step == step

    monkeypatch.setattr(checkpoints.Checkpoints, "on_train_batch_end", hook)


def equal(one, two):
    """Compare two runs bit for bit."""
    assert not list(differences(checkpoint(one), checkpoint(two)))
    assert (one / "metrics.csv").read_text() == (two / "metrics.csv").read_text()
    for file in (one / "model").rglob("*.safetensors"):
        assert file.read_bytes() == (two / file.relative_to(one)).read_bytes()


@pytest.fixture(scope="module", params=sorted(set(EMBEDDED) - set(KILLED)))
def finished(request, tmp_path_factory):
    """Return a recipe's name and its run without a break, in this process."""
    folder = tmp_path_factory.mktemp(request.param)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(arguments(request.param, folder / "run")) == 0
    (folder / "said").write_text(said.getvalue())
    return request.param, folder / "run"


@pytest.mark.parametrize("step", [7, 11], ids=["mid-epoch", "end of an epoch"])
def test_stopped_equals_unbroken(finished, tmp_path, monkeypatch, step):
    name, whole = finished
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        assert main(arguments(name, run)) == 130
    assert checkpoint(run)["global_step"] == step
    assert main(arguments(name, run, "--resume")) == 0
    equal(whole, run)


def test_the_next_command_runs_as_it_stands(finished, tmp_path, monkeypatch, capsys):
    _, run = finished
    monkeypatch.chdir(tmp_path)
    last = (run.parent / "said").read_text().rstrip().splitlines()[-1]
    start, *words = shlex.split(last.removeprefix("next: python -m "))
    assert start == "dlreview.sample"
    assert sample.main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_plain_lightning_takes_the_resolved_recipe(finished, monkeypatch):
    _, run = finished
    monkeypatch.setattr(sys, "argv", ["fit"])
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["logger"] = False  # by default it looks for TensorBoard, and warns
    cli = LightningCLI(
        subclass_mode_model=True,
        subclass_mode_data=True,
        run=False,
        save_config_callback=None,
        args=config,
        auto_configure_optimizers=False,
    )
    assert type(cli.model).__module__.startswith("dlreview.learners")


def steps(run):
    return checkpoint(run)["global_step"]


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_finished_run_goes_on_with_more_epochs(name, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(arguments(name, run, "--trainer.max_epochs", "1")) == 0
    first = (run / "model").stat().st_mtime_ns
    assert main(arguments(name, run, "--trainer.max_epochs", "1", "--resume")) == 0
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert main(arguments(name, run, "--trainer.max_epochs", "2", "--resume")) == 0
    assert "resuming with trainer.max_epochs 2, it was 1" in capsys.readouterr().out
    assert steps(run) == 22
    assert (run / "model").stat().st_mtime_ns > first
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 2


@pytest.mark.parametrize("name", EMBEDDED)
def test_any_number_of_epochs_and_any_batch_size_trains_to_its_end(name, tmp_path):
    run, more = tmp_path / "run", ["--trainer.max_epochs", "4", *half_batch(name)]
    more += ["--trainer.limit_train_batches", "5"]
    if not name.startswith("word2vec"):  # its compiled loop takes a step on each example
        more += ["--trainer.accumulate_grad_batches", "2"]
    assert main(arguments(name, run, *more)) == 0
    assert steps(run) == (20 if name.startswith("word2vec") else 12)


TORCH = ("OneCycleLR", "CosineAnnealingLR")


@pytest.mark.parametrize("schedule", TORCH)
def test_torchs_schedules_need_no_steps_and_go_on_with_more_epochs(schedule, tmp_path):
    run = tmp_path / "run"
    more = [f"--model.lr_schedule=torch.optim.lr_scheduler.{schedule}"]
    more += ["--model.lr_schedule.init_args", "{}", "--model.optimizer.lr", "1e-4"]
    argv = arguments("classifier_vit_digits", run, *more)
    assert main([*argv, "--trainer.max_epochs", "1"]) == 0
    config = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    total = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max"}[schedule]
    assert config["lr_schedule"]["init_args"][total] == 11
    assert config["lr_schedule"]["init_args"].get("max_lr", 1e-4) == 1e-4
    assert main([*argv, "--trainer.max_epochs", "3", "--resume"]) == 0
    assert steps(run) == 33


@pytest.mark.parametrize("name", ONE_EACH)
def test_the_optimizers_rate_has_its_effect(name, tmp_path):
    run = tmp_path / "run"
    assert main(arguments(name, run, "--model.optimizer.lr", "1e-5")) == 0
    lines = (run / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/lr")
    rates = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
    assert 0 < max(rates) <= 1e-5


EMA = "[{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.5}}]"


LINEAR = ["--model.lr_schedule", "{class_path: dlreview.learners.rates.Linear}"]


@pytest.mark.parametrize("schedule", [[], LINEAR], ids=["OneCycleLR", "Linear"])
def test_another_global_batch_is_told_and_the_schedule_ends_with_it(schedule, tmp_path, capsys):
    run = tmp_path / "run"
    argv = arguments("classifier_vit_digits", run, *schedule, "--trainer.log_every_n_steps", "1")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 15)  # four batches of the second epoch are done
        assert main(argv) == 130
    assert main([*argv, "--resume", "--trainer.accumulate_grad_batches", "2"]) == 0
    assert (
        "resuming with a global batch of 128 rows (batch_size 64 x accumulate_grad_batches 2 x "
        "processes 1), it was 64 rows (batch_size 64 x accumulate_grad_batches 1 x processes 1)"
    ) in capsys.readouterr().out
    assert steps(run) == 15 + 4  # of the seven batches that are left
    text = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["lr_schedule"]
    assert text["init_args"].get("total_steps", 19) == 19
    lines = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    rates = [float(line["train/lr"]) for line in lines if line["train/lr"]]
    assert rates[-1] < rates[-5] < rates[-9]
    if schedule:
        assert rates[-1] == pytest.approx(2e-3 * (1 - 18 / 19))


def test_another_number_of_tokens_is_another_global_batch(tmp_path, capsys):
    """A run that took more steps before than its batches make now still learns at the end."""
    run = tmp_path / "run"
    name, linear = "translation_transformer_numbers", [*LINEAR, "--trainer.log_every_n_steps", "1"]
    argv = arguments(name, run, *linear, "--data.tokens_per_batch", "32")
    argv += ["--trainer.limit_train_batches", "6", "--trainer.max_epochs"]
    assert main([*argv, "1"]) == 0
    again = ["--data.tokens_per_batch", "64", "--trainer.limit_train_batches", "2", "--resume"]
    assert main([*argv, "2", *again]) == 0
    assert "resuming with a global batch of 64 tokens (tokens_per_batch 64 x" in (
        capsys.readouterr().out
    )
    lines = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    rates = [float(line["train/lr"]) for line in lines if line["train/lr"]]
    assert steps(run) == len(rates) == 6 + 2
    assert rates[-1] == pytest.approx(1e-3 * (1 - 7 / 8))


def test_without_its_averaging_a_run_goes_on_from_the_weights_beside_the_average(tmp_path, capsys):
    run, argv = tmp_path / "run", ["--trainer.callbacks", EMA, "--trainer.max_epochs", "1"]
    assert main(arguments("classifier_vit_digits", run, *argv)) == 0
    before = checkpoint(run)
    again = ["--resume", "--trainer.callbacks", "[]", "--trainer.max_epochs", "2"]
    # A rate of 0 leaves the weights as they are read.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: closure())
        assert main(arguments("classifier_vit_digits", run, *again)) == 0
    said = capsys.readouterr()
    told = "resuming with weights that are no longer averaged: the run had EMAWeightAveraging"
    assert told in said.out
    key = "net.head.weight"
    assert torch.equal(checkpoint(run)["state_dict"][key], before["current_model_state"][key])
    assert not torch.equal(before["state_dict"][key], before["current_model_state"][key])


def test_averaging_may_begin_with_a_resumed_run(tmp_path, capsys):
    run = tmp_path / "run"
    one = ["--trainer.callbacks", "[]", "--trainer.max_epochs", "1"]
    assert main(arguments("classifier_vit_digits", run, *one)) == 0
    two = ["--resume", "--trainer.callbacks", EMA, "--trainer.max_epochs", "2"]
    assert main(arguments("classifier_vit_digits", run, *two)) == 0
    told = "resuming with EMAWeightAveraging: the average begins with the present weights"
    assert told in capsys.readouterr().out
    assert int(checkpoint(run)["averaging_state"]["n_averaged"]) == 11


def test_a_run_that_failed_in_its_first_step_can_be_started_again(tmp_path, capsys):
    run = tmp_path / "run"
    bad = ["--model.lr_schedule", "null", "--model.optimizer.lr", "1e30"]
    argv = arguments("classifier_vit_digits", run, "--trainer.max_epochs", "1")
    with pytest.MonkeyPatch.context() as patch:
        fault = ValueError("a fault")
        patch.setattr("dlreview.learners.classifier.Classifier.training_step", _raise(fault))
        assert main([*argv, *bad]) == 1
    assert "a fault" in capsys.readouterr().err
    assert main(argv) == 2
    assert "add --resume to go on with that run" in capsys.readouterr().err
    assert main([*argv, "--resume"]) == 0, "another recipe: there is nothing of the first one"
    assert steps(run) == 11


def _raise(error):
    def step(*_):
        raise error

    return step
