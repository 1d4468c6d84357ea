"""Each flag of Lightning's Trainer is honoured, or refused before the run has a folder."""

import copy
import functools
import inspect
import re

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import LambdaLR

from dlreview.fit import main
from dlreview.running import builder, session

RECIPE = "recipes/classifier_vit_digits.yaml"
SMALL = ["--wandb", "off", "--model.net.width", "4", "--model.net.depth", "1",
         "--model.net.heads", "1", "--data.augment", "[]", "--data.batch_size", "128",
         "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1",
         "--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1",
         "--trainer.log_every_n_steps", "1"]  # fmt: skip
CALLBACKS = "lightning.pytorch.callbacks"
CSV = "lightning.pytorch.loggers.CSVLogger"
AMP = "{class_path: lightning.pytorch.plugins.MixedPrecision, init_args: {" \
      "precision: bf16-mixed, device: cpu}}"  # fmt: skip


def steps(count):
    return lambda fit, run: fit.trainer.global_step == count


def file(pattern):
    return lambda fit, run: list(run.glob(pattern))


def no_file(pattern):
    return lambda fit, run: not list(run.glob(pattern))


def has(path, value):
    """Compare a value of the trainer."""
    return lambda fit, run: functools.reduce(getattr, path.split("."), fit.trainer) == value


# Flag of the trainer, value, a word of the output, what else holds; further flags stand behind the
# value. Without a word the run is only built.
HONOURED = [
    ("accelerator", "cpu", "", None),
    ("devices", "2", "", has("world_size", 2)),
    ("num_nodes", "2", "", has("world_size", 2)),
    ("strategy", "ddp", "", has("strategy.__class__.__name__", "DDPStrategy")),
    ("precision", "bf16-mixed", "network:", has("precision_plugin.precision", "bf16-mixed")),
    ("logger", CSV, "network:", file("lightning_logs/version_0/metrics.csv")),
    ("logger", "CSVLogger", "network:", file("lightning_logs/version_0/metrics.csv")),
    ("logger", f"[{CSV}]", "network:", file("lightning_logs/version_0/metrics.csv")),
    ("logger+", CSV, "network:", file("lightning_logs/version_0/metrics.csv")),
    ("logger", "{class_path: CSVLogger}", "network:", file("lightning_logs/*/metrics.csv")),
    ("logger", "false", "network:", file("metrics.csv")),
    ("callbacks", "[]", "drops the recipe's EMAWeightAveraging", None),
    ("callbacks+", f"{CALLBACKS}.RichProgressBar", "Epoch", None),
    ("callbacks+", f"{CALLBACKS}.ModelSummary", "Type", None),
    ("fast_dev_run", "true", "fast_dev_run: 1 step and no log", steps(1)),
    ("fast_dev_run", "2", "fast_dev_run: 2 steps and no log", steps(2)),
    ("max_epochs", "2", "network:", steps(4)),
    ("min_epochs", "1", "", has("min_epochs", 1)),
    ("max_steps", "1", "network:", steps(1)),
    # 0.2 of 5 steps: torch's OneCycleLR would divide by zero.
    ("max_steps", "5 --trainer.max_epochs 3", "network:", steps(5)),
    ("log_every_n_steps", "9 --trainer.limit_val_batches 0", "no metrics: see trainer.log", None),
    ("min_steps", "1", "", has("min_steps", 1)),
    ("max_time", "{minutes: 5}", "", None),
    ("limit_train_batches", "1", "network:", steps(1)),
    ("limit_val_batches", "0", "network:", no_file("pictures/*")),
    ("limit_test_batches", "0", "limit_test_batches has no effect: fit does not test", None),
    ("limit_predict_batches", "0", "limit_predict_batches has no effect", None),
    ("overfit_batches", "1", "network:", steps(1)),
    ("val_check_interval", "1", "network:", file("pictures/*_000001.png")),
    ("val_check_interval", "00:00:05:00", "network:", no_file("pictures/*")),
    ("check_val_every_n_epoch", "null --trainer.val_check_interval 1", "network:",
     file("pictures/*_000001.png")),
    ("num_sanity_val_steps", "1", "network:", no_file("pictures/*_000000.png")),
    ("log_every_n_steps", "0", "val/loss", None),
    ("enable_checkpointing", "false", "network:", no_file("checkpoints/best.ckpt")),
    ("enable_progress_bar", "true", "Epoch", None),
    ("enable_progress_bar", "false", "", None),
    ("enable_model_summary", "true", "Params", None),
    ("accumulate_grad_batches", "2", "network:", steps(1)),
    ("gradient_clip_val", "0.5", "network:", None),
    ("gradient_clip_algorithm", "value --trainer.gradient_clip_val 0.1", "network:",
     has("gradient_clip_algorithm.value", "value")),
    ("gradient_clip_algorithm", "value", "no effect without gradient_clip_val", None),
    ("deterministic", "true", "network:", None),
    ("benchmark", "true", "", None),
    ("inference_mode", "false", "network:", None),
    ("use_distributed_sampler", "false", "", None),
    ("profiler", "simple", "Profiler Report", None),
    ("detect_anomaly", "true", "network:", None),
    ("plugins", AMP, "network:", has("precision_plugin.precision", "bf16-mixed")),
    ("sync_batchnorm", "true", "", None),
    ("reload_dataloaders_every_n_epochs", "1 --trainer.max_epochs 2", "network:", steps(4)),
    ("default_root_dir", "elsewhere", "default_root_dir has no effect: the run's folder", None),
    ("enable_autolog_hparams", "false --trainer.logger CSVLogger", "network:",
     no_file("lightning_logs/version_0/hparams.yaml")),
    ("model_registry", "somewhere", "model_registry has no effect", None),
]  # fmt: skip
REFUSED = [
    ("accelerator", "gpu", "gpu"),
    ("accelerator", "tpu", "torch_xla"),
    ("devices", "0", "device"),
    ("num_nodes", "0", "num_nodes: out of range"),
    ("strategy", "ddp_spawn --trainer.devices 2", "strategy: got 'ddp_spawn'"),
    ("strategy", "ddp_notebook", "valid: ddp"),
    ("strategy", "nonsense", "nonsense"),
    ("precision", "16-mixed", "valid on a CPU: bf16-mixed, 32-true"),
    ("precision", "'16'", "which a CPU does not have"),
    ("precision", "bf16-true", "precision: got 'bf16-true'"),
    ("precision", "64-true", "precision: got '64-true'"),
    ("precision", "transformer-engine", "transformer_engine"),
    ("logger", "[TensorBoardLoger]", "logger"),
    ("callbacks", "nonsense", "callbacks"),
    ("fast_dev_run", "-1", "fast_dev_run"),
    ("min_epochs", "2", "min_epochs: is 2, max_epochs is 1"),
    ("min_steps", "3 --trainer.max_steps 2", "min_steps: is 3, max_steps is 2"),
    ("max_epochs", "-1", "no end"),
    ("max_time", "nonsense", "DD:HH:MM:SS"),
    ("limit_train_batches", "0", "nothing to train"),
    ("overfit_batches", "0.01", "overfit_batches: got 0.01"),
    ("val_check_interval", "0.5 --trainer.check_val_every_n_epoch null", "val_check_interval"),
    ("gradient_clip_algorithm", "vale", "vale"),
    ("profiler", "nonsense", "simple"),
    ("barebones", "true", "barebones: got true"),
    ("plugins", "lightning.fabric.plugins.TorchCheckpointIO", "TorchCheckpointIO"),
]
WATCH = "{class_path: " + CALLBACKS + ".EarlyStopping, init_args: {monitor: %s}}"


def accumulate(factors):
    name = f"{CALLBACKS}.GradientAccumulationScheduler"
    return f"[{{class_path: {name}, init_args: {{scheduling: {factors}}}}}]"


# Callbacks: added to the recipe's, or in their place where the value is a list.
CALLED = [
    (f"{CALLBACKS}.LearningRateMonitor", 0, "lr-AdamW"),
    (f"{CALLBACKS}.Timer", 0, "network:"),
    (f"{CALLBACKS}.LambdaCallback", 0, "network:"),
    (f"{CALLBACKS}.RichModelSummary", 0, "Params"),
    ("{class_path: " + CALLBACKS + ".ModelCheckpoint, init_args: {monitor: val/top5}}", 0, "net"),
    ("{class_path: " + CALLBACKS + ".OnExceptionCheckpoint, init_args: {dirpath: x}}", 0, "net"),
    (f"[{CALLBACKS}.WeightAveraging]", 0, "network:"),
    (WATCH % "val/accuracy", 0, "network:"),
    (WATCH % "val/top5", 0, "network:"),
    (WATCH % "val/tpo5", 2, "EarlyStopping watches 'val/tpo5', which is not logged\n"
     "did you mean val/top5?"),
    ("{class_path: " + CALLBACKS + ".ModelCheckpoint, init_args: {monitor: val/no}}", 2, "val/no"),
    (f"{CALLBACKS}.BatchSizeFinder", 2, "set data.batch_size"),
    (f"{CALLBACKS}.LearningRateFinder", 2, "set model.optimizer.lr"),
    (f"{CALLBACKS}.BackboneFinetuning", 2, "needs a network `backbone`, Classifier has net"),
    (accumulate("{0: 2}"), 0, "network:"),
    (accumulate("{'0': 2}"), 0, "network:"),
    (accumulate("{'a': 2}"), 2, "scheduling"),
    (accumulate("{0: b}"), 2, "scheduling"),
    (accumulate("{0: 0}"), 2, "Accumulation factor"),
]  # fmt: skip
RATES = "torch.optim.lr_scheduler"
SCHEDULES = [
    ("LambdaLR, init_args: {lr_lambda: tests.running.test_flags.half}", 0, "network:"),
    ("MultiplicativeLR, init_args: {lr_lambda: tests.running.test_flags.half}", 0, "network:"),
    ("MultiplicativeLR, init_args: {lr_lambda: torch.sigmoid}", 2, "sigmoid"),
    ("LambdaLR, init_args: {lr_lambda: math.sqrt}", 2, "outside the allowed packages"),
    ("SequentialLR, init_args: {schedulers: [], milestones: []}", 2, "use dlreview.learners.rates"),
    ("ChainedScheduler, init_args: {schedulers: []}", 2, "use dlreview.learners.rates"),
]


def half(step):
    """Return a factor of the rate: a user's own function."""
    return 0.5**step


@functools.cache
def opened(text):
    return build(builder.Section("data", yaml.safe_load(text)))


build = builder.build_data


@pytest.fixture
def fit(tmp_path, monkeypatch, capfd):
    """Return a function that trains a tiny classifier: (status, output, `Fit`, folder)."""
    monkeypatch.setattr(builder, "build_data", lambda s: copy.copy(opened(yaml.safe_dump(s.tree))))
    made, whole = [], session.Fit.train
    run = tmp_path / "run"

    def start(*flags, train=True):
        how = whole if train else lambda self: 0
        monkeypatch.setattr(session.Fit, "train", lambda self: made.append(self) or how(self))
        status = main([RECIPE, "--out", str(run), *SMALL, *flags])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        if status == 2:
            assert len(said.err.splitlines()) <= 3, said.err
            assert not run.exists(), "a refused recipe leaves no folder"
        return status, said.out + said.err, made[-1] if made else None, run

    yield start
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


def flags(name, value):
    first, *more = re.split(r" (?=--)", value)
    return [f"--trainer.{name}={first}", *(word for text in more for word in text.split())]


def test_every_flag_is_in_the_table():
    names = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert {row[0].removesuffix("+") for row in (*HONOURED, *REFUSED)} == names


@pytest.mark.parametrize(("name", "value", "told", "holds"), HONOURED)
def test_a_flag_is_honoured(fit, name, value, told, holds):
    status, said, run, folder = fit(*flags(name, value), train=bool(told))
    assert status == 0, said
    assert told in said
    assert holds is None or holds(run, folder)


@pytest.mark.parametrize(("name", "value", "told"), REFUSED)
def test_a_flag_is_refused(fit, name, value, told):
    status, said, *_ = fit(*flags(name, value))
    assert status == 2, said
    assert told in said


@pytest.mark.parametrize(("value", "expected", "told"), CALLED)
def test_callbacks(fit, value, expected, told):
    status, said, *_ = fit(f"--trainer.callbacks{'' if value[0] == '[' else '+'}={value}")
    assert status == expected, said
    assert told in said


@pytest.mark.parametrize(("section", "expected", "told"), SCHEDULES)
def test_schedules_of_torch(fit, section, expected, told):
    schedule = f"--model.lr_schedule={{class_path: {RATES}.{section}}}"
    status, said, run, _ = fit(schedule, "--trust", "tests")
    assert status == expected, said
    assert told in said
    if expected == 0:
        (config,) = run.trainer.lr_scheduler_configs
        assert isinstance(config.scheduler, LambdaLR) == section.startswith("LambdaLR")
        rates = {"LambdaLR": 2e-3 / 4, "Multiplic": 2e-3 / 2 / 4}  # of steps 0, 1, 2
        assert config.scheduler.get_last_lr()[0] == pytest.approx(rates[section[:9].split(",")[0]])


def test_a_run_without_a_step_is_not_done(fit):
    status, said, _, run = fit("--trainer.max_time", "00:00:00:00")
    assert status == 1
    assert "nothing was trained" in said
    assert not (run / "model").exists()


def test_early_stopping_without_a_validation_is_refused(fit):
    status, said, *_ = fit(f"--trainer.callbacks+={WATCH % 'val/loss'}",
                           "--trainer.limit_val_batches", "0")  # fmt: skip
    assert (status, "EarlyStopping watches 'val/loss', and nothing is validated" in said) == (2, 1)


def test_an_epoch_of_overfitting_has_the_same_rows(fit):
    _, _, run, _ = fit("--trainer.overfit_batches", "1", "--trainer.max_epochs", "3", train=False)
    order = run.data.train_dataloader().sampler
    first = next(iter(order))
    order.set_epoch(2)
    assert next(iter(order)) == first
    order.fixed = False
    assert next(iter(order)) != first


def test_a_schedule_by_the_share_of_training_needs_its_number_of_steps(fit):
    schedule = ["--model.lr_schedule", "{class_path: dlreview.learners.rates.Linear}"]
    status, said, *_ = fit("--trainer.callbacks", accumulate("{0: 2, 1: 1}"), *schedule)
    assert status == 2
    assert "use trainer.accumulate_grad_batches" in said


def test_a_schedule_of_torch_knows_steps_that_change_with_the_epoch(fit):
    more = ["--trainer.callbacks", accumulate("{0: 2, 2: 1}"), "--trainer.max_epochs", "3"]
    status, said, run, _ = fit(*more)
    assert status == 0, said
    assert run.trainer.global_step == 1 + 1 + 2
    schedule = run.config["model"]["init_args"]["lr_schedule"]["init_args"]
    assert schedule["total_steps"] == 4
