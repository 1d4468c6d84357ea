"""`Learner`: one mean and one set of random numbers for any number of processes, logs, networks."""

import copy
import importlib
import inspect
import pkgutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

import dlreview.learners
from dlreview.learners.learner import TRAIN, VALIDATE, Learner, Weighted
from dlreview.learners.rates import Linear
from dlreview.running.trial import modules_that_give
from tests.learners import bare_trainer
from tests.learners.regression import BATCH, Regression, rows, stack, train

SGD = partial(torch.optim.SGD, lr=0.1)


class Processes:
    """What a learner sees of a trainer that has one process for each of `counts`."""

    def __init__(self, rank, counts, batch_size=None):
        self.global_rank, self.world_size, self.counts = rank, len(counts), counts
        self.datamodule = SimpleNamespace(batch_size=batch_size)
        self.strategy = self

    def all_gather(self, count, group=None, sync_grads=False):
        assert int(count) == self.counts[self.global_rank] and not sync_grads
        return torch.tensor(self.counts).to(count)


@pytest.mark.parametrize("counts", [[4, 4], [5, 3], [8, 0], [1, 2, 5]])
def test_the_mean_is_that_of_all_examples_of_all_processes(counts):
    """DDP averages gradients: the averages of two processes must be those of the whole batch."""
    net, batch = nn.Linear(3, 2).double(), stack(rows(8))
    batch = {name: x.double() for name, x in batch.items()}
    whole = Regression(net)
    whole._trainer = Processes(0, [8])
    expected = whole.mean(whole.loss(batch, whole.random(batch, 0)))
    expected.backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    means, first = [], 0
    for rank, count in enumerate(counts):
        share = {name: x[first : first + count] for name, x in batch.items()}
        first += count
        learner = Regression(net)
        learner._trainer = Processes(rank, counts)
        mean = learner.mean(learner.loss(share, learner.random(share, 0)))
        (mean / len(counts)).backward()
        means.append(mean.detach())
    # Counts are gathered in float32, which has seven digits.
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-7)
    close(torch.stack(means).mean(), expected.detach())
    for p, gradient in zip(net.parameters(), gradients, strict=True):
        close(p.grad, gradient)


@pytest.mark.parametrize("padding", [None, 0, 3])
@pytest.mark.parametrize("counts", [[0], [0, 0]])
def test_a_batch_without_examples_has_the_mean_zero(counts, padding):
    learner = Regression()
    learner._trainer = Processes(0, counts)
    losses = torch.ones(padding or 0, requires_grad=True) * learner.net.weight.sum()
    mean = learner.mean(losses if padding is None else Weighted(losses, torch.zeros(padding)))
    assert mean == 0
    mean.backward()
    assert not learner.net.weight.grad.any()


class Padded(Regression):
    """Some rows are padding. Batches are {"x", "y", "kept"}."""

    def loss(self, batch, random):
        return Weighted(super().loss(batch, random), batch["kept"])


@pytest.mark.parametrize("shares", [[8], [4, 4], [5, 3], [6, 2]])
def test_padding_does_not_count(shares):
    """Weights give the mean, and the gradients, of the rows that are left without padding."""
    kept = torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 0])  # the last process may have padding only
    batch = {name: x.double() for name, x in stack(rows(8)).items()} | {"kept": kept}
    net = nn.Linear(3, 2).double()
    plain = Regression(net)
    plain._trainer = Processes(0, [8])
    left = {name: x[kept.bool()] for name, x in batch.items()}
    expected = plain.mean(plain.loss(left, plain.random(left, 0)))
    gradients = torch.autograd.grad(expected, list(net.parameters()))
    parts = [x.split(shares) for x in batch.values()]
    counts, means = [int(part.sum()) for part in kept.split(shares)], []
    for rank in range(len(shares)):
        share = {name: part[rank] for name, part in zip(batch, parts, strict=True)}
        learner = Padded(net)
        learner._trainer = Processes(rank, counts)
        means.append(learner.mean(learner.loss(share, learner.random(share, 0))))
    mean = torch.stack(means).mean()
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-7)
    close(mean, expected)
    close(torch.autograd.grad(mean, list(net.parameters())), gradients)


def test_the_validation_of_padded_batches_counts_what_is_left():
    learner, logged = Padded(), {}
    learner.log = lambda name, value, **_: logged.update({name: value})
    batch = stack(rows(4)) | {"kept": torch.tensor([1.0, 0, 0, 1])}
    learner.validation_step(batch, 0)
    plain, left = Regression(learner.net), {name: x[[0, 3]] for name, x in batch.items()}
    expected = plain.loss(left, plain.random(left)).mean()
    torch.testing.assert_close(logged["val/loss"].compute(), expected.detach())


def draws(processes, row_count, key=(TRAIN, 3, 5), batch_size=8):
    """Draw for a global batch of at most 8 rows; return numbers in order and seeds by process."""
    share = batch_size // processes
    numbers, seeds = [], []
    for rank in range(processes):
        count = min(share, max(0, row_count - rank * share))
        learner = Regression()
        learner._trainer = Processes(rank, [share] * processes, share)
        random = learner.random({"x": torch.zeros(count, 3)}, *key)
        of_torch = torch.rand(()).item()
        numbers.append([random.normal(2, 3), random.uniform(), random.integers(1000)])
        seeds.append((random.seed, of_torch))
    return [torch.cat(parts) for parts in zip(*numbers, strict=True)], seeds


@pytest.mark.parametrize("row_count", [8, 5])  # a full batch, and the last one of a validation
@pytest.mark.parametrize("processes", [2, 4])
def test_a_row_meets_the_same_random_numbers_in_any_number_of_processes(processes, row_count):
    one, ((seed, _),) = draws(1, row_count)
    several, seeds = draws(processes, row_count)
    for whole, parts in zip(one, several, strict=True):
        assert len(whole) == row_count
        assert torch.equal(whole, parts)
    assert {own for own, _ in seeds} == {seed}
    dropout = [of_torch for _, of_torch in seeds]
    assert len(set(dropout)) == processes, "processes draw dropout of their own"


def test_random_numbers_depend_on_purpose_epoch_batch_and_seed(monkeypatch):
    (first, *_), _ = draws(1, 8)
    assert torch.equal(draws(1, 8)[0][0], first)
    others = [draws(1, 8, key)[0][0] for key in ((VALIDATE, 3, 5), (TRAIN, 4, 5), (TRAIN, 3, 6))]
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    others.append(draws(1, 8)[0][0])
    assert not any(torch.equal(first, other) for other in others)


def test_without_a_trainer_a_learner_is_one_process():
    batch = stack(rows(8))
    learner = Regression(noise=1.0)
    loss = learner.loss(batch, learner.random(batch, TRAIN, 3, 5))
    learner._trainer = Processes(0, [8], 8)
    assert torch.equal(loss, learner.loss(batch, learner.random(batch, TRAIN, 3, 5)))


def test_a_plain_trainer_logs_losses_and_rates(tmp_path):
    """The same steps by hand: three batches an epoch, a step of SGD on each."""
    learner = Regression(optimizer=SGD, lr_schedule=Linear())
    net = copy.deepcopy(learner.net)
    run, logged = train(learner, tmp_path, val_rows=6, max_epochs=2)
    losses, rates, validations = [], [], []
    for step in range(6):
        batch = stack(rows()[4 * (step % 3) :][:4])
        loss = (net(batch["x"]) - batch["y"]).square().mean()
        rate = 0.1 * (1 - step / 6)
        for p, gradient in zip(
            net.parameters(), torch.autograd.grad(loss, net.parameters()), strict=True
        ):
            p.data -= rate * gradient
        losses.append(loss.item())
        rates.append(rate)
        if step % 3 == 2:  # the last batch has two rows of six, and counts as such
            batch = stack(rows(6, seed=1))
            validations.append((net(batch["x"]) - batch["y"]).square().mean().item())
    assert logged["train/loss"] == pytest.approx(losses, rel=1e-4)
    assert logged["train/lr"] == pytest.approx(rates, rel=1e-6)
    assert logged["val/loss"] == pytest.approx(validations, rel=1e-4)
    assert set(logged) == {"epoch", "step", "train/loss", "train/lr", "val/loss"}
    torch.testing.assert_close(learner.net.state_dict(), net.state_dict())
    assert run.callback_metrics["val/loss"] == pytest.approx(validations[-1], rel=1e-4)


def test_each_validation_draws_the_same_noise_and_each_step_its_own(tmp_path):
    still = partial(torch.optim.SGD, lr=0.0)
    _, logged = train(Regression(noise=1.0, optimizer=still), tmp_path, max_epochs=3)
    assert len(set(logged["val/loss"])) == 1
    assert len(set(logged["train/loss"])) == 9


def test_a_process_without_rows_takes_part_in_the_validation():
    learner = Regression()
    logged = {}
    learner.log = lambda name, value, **_: logged.update({name: value})
    learner.validation_step({name: x[:0] for name, x in stack(rows(4)).items()}, 0)
    batch = stack(rows(4))
    learner.validation_step(batch, 1)
    expected = learner.loss(batch, learner.random(batch)).mean()
    torch.testing.assert_close(logged["val/loss"].compute(), expected.detach())


class Pair(Regression):
    """Two networks in a row. Batches are {"x", "y"}."""

    networks = ("first", "second")

    def __init__(self, **options):
        super().__init__(nn.Identity(), **options)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.judge = nn.Linear(2, 2)  # no network of this learner: it is not trained

    def loss(self, batch, random):
        y = self.judge(self.second(self.first(batch["x"])))
        return (y - batch["y"]).square().mean(dim=1)


def test_the_optimizer_trains_all_networks_and_nothing_else(tmp_path):
    learner = Pair(optimizer=SGD)
    wanted = [*learner.first.parameters(), *learner.second.parameters()]
    assert [id(p) for p in learner.parameter_groups()] == [id(p) for p in wanted]
    before = {name: p.clone() for name, p in learner.named_parameters()}
    train(learner, tmp_path)
    for name, p in learner.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("judge"), name


def test_the_rate_of_several_groups_is_the_largest(tmp_path):
    class Grouped(Regression):
        def parameter_groups(self):
            return [{"params": [self.net.bias], "lr": 0.01}, {"params": [self.net.weight]}]

    _, logged = train(Grouped(optimizer=SGD), tmp_path)
    assert logged["train/lr"] == pytest.approx([0.1] * 3)


def compiled(module):
    return module._compiled_call_impl is not None


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's tracing
def test_setup_compiles_the_networks(tmp_path, monkeypatch):
    calls, real = [], torch.compile

    def compile(function, **options):  # with the backend that needs no compiler
        calls.append(function)
        return real(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", compile)
    torch.manual_seed(0)
    plain = Pair(optimizer=SGD)
    fast = Pair(optimizer=SGD, compile=True)
    fast.load_state_dict(plain.state_dict())
    for learner in (plain, fast):
        run = bare_trainer.trainer(tmp_path)
        run.fit(learner, DataLoader(rows(), BATCH), DataLoader(rows(4), BATCH))
    assert compiled(fast.first) and compiled(fast.second) and not compiled(fast.judge)
    assert not compiled(plain.first) and len(calls) == 2
    torch.testing.assert_close(fast.state_dict(), plain.state_dict())  # the same keys, too


def test_a_schedule_of_torch_goes_by_the_steps_of_the_training_that_goes_on():
    learner = Regression(
        optimizer=SGD, lr_schedule=partial(lr_scheduler.CosineAnnealingLR, T_max=4)
    )
    state = learner.configure_optimizers()["lr_scheduler"]["scheduler"].state_dict()
    checkpoint = {"lr_schedulers": [state], "epoch": 1}
    learner.on_load_checkpoint(checkpoint)
    longer = partial(lr_scheduler.CosineAnnealingLR, T_max=8)
    schedule = Regression(optimizer=SGD, lr_schedule=longer).configure_optimizers()
    schedule = schedule["lr_scheduler"]["scheduler"]
    schedule.load_state_dict(checkpoint["lr_schedulers"][0])
    assert schedule.T_max == 8 and checkpoint["epoch"] == 1
    learner.on_load_checkpoint(constant := {})
    assert constant == {"lr_schedulers": []}


def test_a_learner_without_a_loss_or_usage():
    class Empty(Learner):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty has no loss\(batch, random\)"):
        Empty().loss({}, Empty().random({}))
    assert Empty().usage() == {}


def learners():
    """Yield the learner classes that the modules of `dlreview.learners` define."""
    for found in pkgutil.iter_modules(dlreview.learners.__path__, "dlreview.learners."):
        module = importlib.import_module(found.name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            own = kind.__module__ == module.__name__
            if own and issubclass(kind, Learner) and kind is not Learner:
                yield kind


def omissions(kind):
    """List what a learner class does not say of itself."""
    own = vars(kind)
    docstring = own.get("__doc__") or ""
    metric, mode = kind.monitor
    reads = own.get("reads") or ("nothing",)
    checks = {
        "usage": "usage" in own,
        "loss or training_step": "loss" in own or "training_step" in own,
        "reads": "reads" in own and any(True for _ in modules_that_give(reads)),
        "monitor": metric.startswith("val/") and mode in ("min", "max"),
        "batches in the docstring": "Batches are " in docstring
        and (
            all(f'"{name}"' in docstring for name in reads)
            or any(f"`{name}`" in docstring for name in modules_that_give(reads))
        ),
        "networks": any(name in inspect.signature(kind).parameters for name in kind.networks),
        "one level below Learner": kind.__bases__ == (Learner,),
    }
    return [name for name, holds in checks.items() if not holds]


LEARNERS = list(learners())


@pytest.mark.parametrize("kind", LEARNERS, ids=lambda kind: kind.__name__)
def test_a_learner_says_all_that_is_asked_of_it(kind):
    assert omissions(kind) == []


def test_omissions_are_found():
    class Silent(Learner):
        """Train a network."""

        monitor = ("train/loss", "least")

    found = ["usage", "loss or training_step", "reads", "monitor", "batches in the docstring",
             "networks"]  # fmt: skip
    assert omissions(Silent) == found
    assert omissions(Regression) == ["usage", "reads"], "no data of ours have x and y"
    assert omissions(Pair)[-2:] == ["networks", "one level below Learner"]
    assert len(LEARNERS) >= 5
