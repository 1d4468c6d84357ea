"""What goes wrong while training, or between two starts, and how it ends."""

import os
import shutil
import signal
import threading

import pytest
import torch
import yaml

import dlreview
from dlreview.fit import main
from dlreview.running.directory import choose
from tests.running.forks import checkpoint, finish, reached, start
from tests.running.recipes import arguments

NAME = "classifier_vit_digits"
EMA = "lightning.pytorch.callbacks.EMAWeightAveraging"


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path, capsys):
    run = tmp_path / "run"
    more = ["--model.lr_schedule", "null", "--model.optimizer.lr", "1e30"]
    assert main(arguments(NAME, run, "--checkpoint_every", "1", *more)) == 1
    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert "loss is nan at step" in last or "loss is inf at step" in last
    assert not (run / "model").exists()


def test_sigterm_is_taken_as_ctrl_c(tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    process = start(arguments(NAME, run, "--trainer.max_epochs", "500"), log)
    reached(run, 5, process)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 130, log.read_text()
    assert checkpoint(run)["global_step"] > 5


def test_two_starts_at_once_have_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, barrier = [], threading.Barrier(8)

    def begin():
        barrier.wait()
        found.append(choose("recipe", None, False).path)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in found) == [str(n) for n in range(8)]


def test_averaging_that_has_not_begun_is_not_called_averaged(tmp_path):
    run = tmp_path / "run"
    late = f"[{{class_path: {EMA}, init_args: {{update_starting_at_step: 1000}}}}]"
    assert main(arguments(NAME, run, "--trainer.callbacks", late)) == 0
    net = dlreview.load(run)
    assert net.weights_from.endswith(": last")
    raw = checkpoint(run)["current_model_state"]["net.head.weight"]
    assert torch.equal(net.head.weight, raw)


def test_what_stochastic_weight_averaging_makes_at_the_end_is_saved(tmp_path):
    run = tmp_path / "run"
    swa = "{class_path: lightning.pytorch.callbacks.StochasticWeightAveraging, init_args: {" \
          "swa_lrs: 1e-3, swa_epoch_start: 1}}"  # fmt: skip
    more = ["--trainer.callbacks", f"[{swa}]", "--trainer.max_epochs", "4"]
    assert main(arguments(NAME, run, *more)) == 0
    net = dlreview.load(run)
    assert net.weights_from.endswith(": averaged")
    last = checkpoint(run)["state_dict"]["net.head.weight"]
    assert 0 < (net.head.weight - last).abs().max() < 0.1


def test_a_callback_is_added_from_the_command_line(tmp_path):
    run = tmp_path / "run"
    extra = "--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor"
    assert main(arguments(NAME, run, extra)) == 0
    callbacks = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]
    assert [c["class_path"].rpartition(".")[2] for c in callbacks] == [
        "EMAWeightAveraging",
        "LearningRateMonitor",
    ]
    assert "lr-AdamW" in (run / "metrics.csv").read_text().splitlines()[0]


def test_a_run_is_not_resumed_to_fewer_epochs_than_it_has_done(tmp_path, capsys):
    from tests.running.test_resume import stop_at

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 15)
        assert main(arguments(NAME, run)) == 130
    assert main(arguments(NAME, run, "--resume", "--trainer.max_steps", "3")) == 2
    assert "trainer.max_steps: is 3, the run has done 15" in capsys.readouterr().err


def test_the_resolved_recipe_can_be_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = arguments(NAME, tmp_path / "run", "--print_config")
    at = argv.index("--out")
    assert main(argv[:at] + argv[at + 2 :]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["net"]["init_args"]["image_size"] == 8
    assert not list(tmp_path.iterdir())


def test_a_finished_run_that_is_extended_and_broken_off_goes_on(tmp_path):
    from tests.running.test_resume import stop_at

    run, more = tmp_path / "run", ["--resume", "--trainer.max_epochs", "3"]
    assert main(arguments(NAME, run, "--trainer.max_epochs", "1")) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 15)
        assert main(arguments(NAME, run, *more)) == 130
    assert not (run / "model").exists()
    assert main(arguments(NAME, run, *more)) == 0
    assert checkpoint(run)["global_step"] == 33


def test_a_run_that_stopped_early_and_was_killed_is_only_completed(tmp_path):
    run = tmp_path / "run"
    stop = "{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {" \
           "monitor: val/loss, min_delta: 100.0, patience: 1}}"  # fmt: skip
    argv = arguments(NAME, run, "--trainer.callbacks", f"[{stop}]", "--trainer.max_epochs", "9")
    assert main(argv) == 0
    weights, steps = (run / "model" / "model.safetensors").read_bytes(), checkpoint(run)
    shutil.rmtree(run / "model")  # as if it had been killed before it was written
    assert main([*argv, "--resume"]) == 0
    assert checkpoint(run)["global_step"] == steps["global_step"] < 99
    assert (run / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--trainer.val_check_interval", "1000"], "val_check_interval: is 1000, an epoch has 11"),
        (["--trainer.limit_train_batches", "0.001"], "limit_train_batches: got 0.001"),
        (["--trainer.callbacks", "[{class_path: " + EMA + ", init_args: [1]}]"], "trainer.callb"),
        (
            ["--trainer.callbacks+={class_path: lightning.pytorch.callbacks.EarlyStopping, "
             "init_args: {monitor: val/loss, mode: maxx}}"],
            "maxx",
        ),
        (["--out", "--resume"], "--out: needs a value"),
    ],
)  # fmt: skip
def test_more_mistakes_are_refused_without_a_folder(flags, told, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*arguments(NAME, run), *flags]) == 2
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) <= 3
    assert not run.exists()


def test_a_file_where_the_runs_should_be_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(ValueError, match="runs/recipe cannot be made"):
        choose("recipe", None, False)


def test_checkpointing_may_be_switched_off(tmp_path):
    run = tmp_path / "run"
    assert main(arguments(NAME, run, "--trainer.enable_checkpointing", "false")) == 0
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["last.ckpt"]
