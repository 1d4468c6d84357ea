"""Two processes are one process with the same global batch.

Two recipes run in real processes, through `fit` itself, over gloo. Of all others the shares of two
processes are measured in this one: their losses and gradients add up to the whole batch's.
"""

import csv
import os
import signal
import socket
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import dlreview
from dlreview.data.lengths import LengthOrder
from dlreview.data.order import BatchOrder
from dlreview.learners.learner import TRAIN, Weighted
from dlreview.randomness import RowRandom, seed
from dlreview.running import session
from tests.running.forks import checkpoint, finish, fit, reached, start
from tests.running.recipes import ONE_EACH, arguments, batch_size, half_batch

REAL = ("quickstart", "language_model_lstm_python")
# At the recipe's rate Adam makes more of a sum's rounding than a comparison allows; dropout is
# drawn by each process for itself.
ALIKE = {"quickstart": [], "language_model_lstm_python": [
    "--model.net.dropout", "0.0", "--model.optimizer.lr", "1e-3"]}  # fmt: skip


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def as_rank(rank, port):
    """Make a process what torchrun would make it."""
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
    }
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    rank_zero_only.rank = rank  # Lightning reads the variables when it is imported


def two(argv, log, strategy="ddp"):
    """Run `fit` in two processes; return their exit statuses."""
    port = free_port()
    more = ["--trainer.devices", "2", "--trainer.strategy", strategy]
    return [
        finish(p) for p in [start([*argv, *more], log, partial(as_rank, r, port)) for r in (0, 1)]
    ]


@pytest.mark.parametrize("name", REAL)
def test_two_processes_equal_one(name, tmp_path):
    one, both = tmp_path / "one", tmp_path / "both"
    assert fit(arguments(name, one, *ALIKE[name]), tmp_path / "log") == 0
    argv = arguments(name, both, *ALIKE[name], *half_batch(name), "--checkpoint_every", "5")
    assert two(argv, tmp_path / "log2") == [0, 0], (tmp_path / "log2").read_text()

    a, b = checkpoint(one), checkpoint(both)
    key = "current_model_state" if "current_model_state" in a else "state_dict"
    for name_, value in a[key].items():
        torch.testing.assert_close(b[key][name_], value, rtol=1e-4, atol=1e-6)
    for line, other in zip(
        *(csv.DictReader((r / "metrics.csv").read_text().splitlines()) for r in (one, both)),
        strict=True,
    ):
        for column, text in line.items():
            assert bool(text) == bool(other[column])
            if text:
                far = 1 if column == "val/gradient_reach" else 0  # whole steps
                assert float(other[column]) == pytest.approx(float(text), rel=1e-4, abs=far), column


SHARDED = """{class_path: lightning.pytorch.strategies.ModelParallelStrategy, init_args: {
    data_parallel_size: 2, tensor_parallel_size: 1, save_distributed_checkpoint: false}}"""


@pytest.mark.slow
def test_two_processes_that_share_the_weights_equal_one(tmp_path):
    """The weights are saved whole, by the first process, and the run goes on from them."""
    name, one, both = "language_model_gpt_python", tmp_path / "one", tmp_path / "both"
    alike = ["--model.net.dropout", "0.0", "--model.optimizer.lr", "1e-3"]
    alike += ["--model.lr_schedule", "null"]  # it would go by the number of epochs
    assert fit(arguments(name, one, *alike), tmp_path / "log") == 0
    argv, log = arguments(name, both, *alike, *half_batch(name)), tmp_path / "log2"
    assert two([*argv, "--trainer.max_epochs", "1"], log, SHARDED) == [0, 0], log.read_text()
    assert two([*argv, "--resume"], log, SHARDED) == [0, 0], log.read_text()
    a, b = (checkpoint(run)["state_dict"] for run in (one, both))
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, rtol=1e-4, atol=1e-6)
    net = dlreview.load(both)
    assert all(torch.equal(value, b[f"net.{key}"]) for key, value in net.state_dict().items())


def test_one_of_two_processes_may_get_the_signal(tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    argv = arguments("quickstart", run, *half_batch("quickstart"), "--trainer.max_epochs", "40")
    argv += ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    port = free_port()
    first, second = (start(argv, log, partial(as_rank, r, port)) for r in (0, 1))
    reached(run, 5, first)
    os.kill(second.pid, signal.SIGINT)
    assert [finish(first), finish(second)] == [130, 130], log.read_text()
    assert checkpoint(run)["global_step"] > 5


@pytest.fixture
def built(tmp_path, monkeypatch):
    """Return a function that builds a small run in this process, and does not train."""
    made = []
    monkeypatch.setattr(session.Fit, "train", lambda self: made.append(self) or 0)

    def build(name, *more):
        from dlreview.fit import main

        assert main(arguments(name, tmp_path / "run", *more)) == 0
        return made[-1]

    return build


def order_of(loader, size, **place):
    """Return the order of a loader's batches with another batch size, in rows or in tokens."""
    options = {"seed": seed(), "shuffle": getattr(loader.sampler, "shuffle", True)} | place
    if isinstance(loader.sampler, LengthOrder):
        return LengthOrder(loader.dataset.lengths, size, **options)
    return BatchOrder(len(loader.dataset), size, **options)


@pytest.mark.parametrize("name", ONE_EACH)
def test_the_losses_of_shares_add_up(built, name):
    fit_ = built(name)
    learner, data = fit_.model.double(), fit_.data
    for module in learner.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0 if isinstance(module.dropout, float) else torch.nn.Identity()
        if isinstance(module, torch.nn.BatchNorm2d):  # its statistics are those of a process
            module.eval()
        if hasattr(module, "mixup"):  # its partners are rows of the same process
            module.mixup = module.cutmix = 0.0
    learner.accept(data, fit_.trainer)
    loader, whole = data.train_dataloader(), batch_size(name)

    def share(rank, processes):
        """Return the sum of a share's losses, their number, and the gradients."""
        rows = next(iter(order_of(loader, whole // processes, rank=rank, processes=processes)))
        batch = data.on_after_batch_transfer(loader.dataset[rows], 0)
        place = SimpleNamespace(
            global_rank=rank,
            world_size=processes,
            datamodule=SimpleNamespace(batch_size=whole // processes),
        )
        learner._trainer = place
        losses = learner.loss(doubled(batch), learner.random(batch, TRAIN, 0, 0))
        if isinstance(losses, Weighted):
            losses = losses.losses[losses.weights.bool()]
        learner.zero_grad()
        losses.double().sum().backward()
        gradients = {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}
        return losses.double().sum().item(), len(losses), gradients

    total, count, gradients = share(0, 1)
    parts = [share(rank, 2) for rank in (0, 1)]
    assert sum(part[1] for part in parts) == count
    assert sum(part[0] for part in parts) == pytest.approx(total, rel=1e-6)  # losses are float32
    for key, gradient in gradients.items():
        both = sum(part[2][key] for part in parts)
        torch.testing.assert_close(both, gradient, rtol=1e-4, atol=1e-5)


def doubled(batch):
    return {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in batch.items()
    }


def test_a_row_meets_the_same_noise_whatever_the_number_of_processes():
    device = torch.device("cpu")
    whole = RowRandom(8, device, (1, 2))
    parts = [RowRandom(4, device, (1, 2), rank=r, processes=2) for r in (0, 1)]
    noise, t = whole.normal(3, 2), whole.integers(1000)
    shares = [(p.normal(3, 2), p.integers(1000)) for p in parts]
    assert torch.equal(torch.cat([s[0] for s in shares]), noise)
    assert torch.equal(torch.cat([s[1] for s in shares]), t)
    assert not torch.equal(shares[0][0], shares[1][0]), "ranks draw different noise"
    assert not torch.equal(RowRandom(8, device, (1, 3)).normal(3, 2), noise)
    assert parts[0].own_seed != parts[1].own_seed


def test_a_short_share_takes_the_first_of_its_rows():
    device = torch.device("cpu")
    full = RowRandom(4, device, (7,), rank=1, processes=2).normal(5)
    short = RowRandom(3, device, (7,), rank=1, processes=2, share=4).normal(5)
    assert torch.equal(short, full[:3])
