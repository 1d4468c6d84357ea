"""Rates are functions of the share of training, whatever its length; layers keep their factors."""

import math
from collections import Counter
from functools import partial

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset

from dlreview.learners.rates import (
    Linear,
    Rate,
    Steps,
    Warmup,
    WarmupCosine,
    layers,
    parameter_groups,
    scale_rates,
    scheduled,
    without_totals,
)
from dlreview.nn.vit import ViT
from tests.learners import bare_trainer
from tests.learners.regression import Regression, rows, train

SGD = partial(torch.optim.SGD, lr=0.5)


def cosine(share):
    return (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(
    ("rate", "expected"),
    [  # at shares 0, 0.1, 0.2 (the end of the warm-up), 0.6 (half of what follows) and 1
        (Warmup(), [1, 1, 1, 1, 1]),
        (Warmup(0.2, first=0.5), [0.5, 0.75, 1, 1, 1]),
        (Linear(), [1, 0.9, 0.8, 0.4, 0]),
        (Linear(0.1, warmup=0.2), [0.04, 0.52, 1, 0.55, 0.1]),
        (Linear(2.0), [1, 1.1, 1.2, 1.6, 2]),
        (Steps([0.2, 0.5], factor=0.5), [1, 1, 0.5, 0.25, 0.25]),
        (WarmupCosine(0.0), [1, cosine(0.1), cosine(0.2), cosine(0.6), 0]),
        (WarmupCosine(0.2, 0.3, 0.1), [0.1, 0.55, 1, 0.65, 0.3]),
        (WarmupCosine(0.2), [0.04, 0.52, 1, 0.5, 0]),
    ],
)
def test_a_rate_is_its_closed_form(rate, expected):
    assert [rate(share) for share in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx(expected)


@pytest.mark.parametrize("make", [Warmup, Linear, WarmupCosine])
def test_a_rate_of_a_users_own_and_the_warm_up_of_all(make):
    class Half(make):
        def after(self, share):
            return 0.5

    half = Half(warmup=0.25, first=0.2)
    assert [half(share) for share in (0.0, 0.125, 0.25, 1.0)] == pytest.approx([0.2, 0.6, 0.5, 0.5])
    with pytest.raises(ValueError, match=r"warmup must be in \[0, 1\), got 1.0"):
        make(warmup=1.0)
    with pytest.raises(ValueError, match=r"first must be in \[0, 1\), got -0.1"):
        make(first=-0.1)


@pytest.mark.parametrize("make", [Linear, WarmupCosine])
def test_a_negative_rate_is_refused(make):
    with pytest.raises(ValueError, match=r"last must be at least 0, got -0.5"):
        make(last=-0.5)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 2}, 6),
        ({"max_epochs": 5}, 15),
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, 2),
        ({"max_epochs": -1, "max_steps": 4}, 4),
        ({"max_epochs": 5, "limit_train_batches": 2}, 10),
    ],
)
def test_the_trainer_knows_the_share_of_training(tmp_path, options, steps):
    rate = WarmupCosine(0.25, last=0.1)
    learner = Regression(optimizer=SGD, lr_schedule=rate)
    run, logged = train(learner, tmp_path, **options)
    assert run.global_step == steps
    expected = [0.5 * rate(step / steps) for step in range(steps)]
    assert logged["train/lr"] == pytest.approx(expected)
    assert learner.rate() == pytest.approx(0.5 * 0.1)


@pytest.mark.parametrize(
    ("rate", "theirs"),
    [
        (Linear(0.25), partial(lr_scheduler.LinearLR, start_factor=1, end_factor=0.25)),
        (Warmup(0.999, first=0.2), partial(lr_scheduler.LinearLR, start_factor=0.2)),
        (WarmupCosine(0.0, last=0.2), partial(lr_scheduler.CosineAnnealingLR, eta_min=0.1)),
    ],
    ids=["linear", "warm-up", "cosine"],
)
def test_rates_equal_torchs_schedules(tmp_path, rate, theirs):
    ours, reference = (
        train(Regression(optimizer=SGD, lr_schedule=schedule), folder, max_epochs=3)[1]["train/lr"]
        for schedule, folder in (
            (rate, tmp_path / "ours"),
            (lambda o: theirs(o, **{STEPS[theirs.func]: 9}), tmp_path / "theirs"),
        )
    )
    assert ours == pytest.approx(reference, rel=2e-3 if isinstance(rate, Warmup) else 1e-9)
    assert len(ours) == 9 and len(set(ours)) == 9


STEPS = {lr_scheduler.LinearLR: "total_iters", lr_scheduler.CosineAnnealingLR: "T_max"}


class Endless(IterableDataset):
    def __iter__(self):
        return iter(rows())


def test_a_rate_needs_a_number_of_steps(tmp_path):
    for data, options in (
        (DataLoader(rows(), 4), {"max_epochs": -1}),
        (DataLoader(Endless(), 4), {"max_epochs": 2}),
    ):
        run = bare_trainer.trainer(tmp_path, **options)
        with pytest.raises(ValueError, match=r"needs a number of steps: set trainer\.max_steps"):
            run.fit(Regression(optimizer=SGD, lr_schedule=Linear()), data, DataLoader(rows(), 4))
    run = bare_trainer.trainer(tmp_path, max_epochs=2, max_steps=5)
    learner = Regression(optimizer=SGD, lr_schedule=Linear(0.2))
    run.fit(learner, DataLoader(Endless(), 4), DataLoader(rows(), 4))
    assert learner.rate() == pytest.approx(0.5 * 0.2)


def test_an_optimizer_without_a_schedule_keeps_its_rate(tmp_path):
    learner = Regression(optimizer=SGD)
    assert isinstance(learner.configure_optimizers(), torch.optim.SGD)
    _, logged = train(learner, tmp_path, max_epochs=2)
    assert logged["train/lr"] == [0.5] * 6


def test_torchs_schedules_are_stepped_every_step(tmp_path):
    halve = partial(lr_scheduler.StepLR, step_size=2, gamma=0.5)
    _, logged = train(Regression(optimizer=SGD, lr_schedule=halve), tmp_path, max_epochs=2)
    assert logged["train/lr"] == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


class Still(Regression):
    """A loss that does not change: after each validation a plateau is found."""

    def loss(self, batch, random):
        return 0 * super().loss(batch, random) + 1


PLATEAU = partial(lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0)


@pytest.mark.parametrize("every", [1, 2])
def test_a_plateau_is_looked_for_after_each_validation(tmp_path, every):
    learner = Still(optimizer=SGD, lr_schedule=PLATEAU)
    _, logged = train(learner, tmp_path, max_epochs=6, check_val_every_n_epoch=every)
    # The first validation gives the best value, each later one a plateau.
    before = [epoch // every for epoch in range(6)]
    expected = [0.5 * 0.5 ** max(0, seen - 1) for seen in before for _ in range(3)]
    assert logged["train/lr"] == expected


def test_a_plateau_watches_the_metric_of_its_mode():
    def watched(monitor, schedule):
        learner = Regression(optimizer=SGD, lr_schedule=schedule)
        learner.monitor = monitor
        return learner.configure_optimizers()["lr_scheduler"]["monitor"]

    maximum = partial(PLATEAU, mode="max")
    assert watched(("val/loss", "min"), PLATEAU) == "val/loss"
    assert watched(("val/accuracy", "max"), maximum) == "val/accuracy"
    assert watched(("val/accuracy", "max"), PLATEAU) == "val/loss"
    own = partial(ReduceLROnPlateau, monitor="train/loss")
    assert watched(("val/accuracy", "max"), own) == "train/loss"
    with pytest.raises(ValueError, match="mode is 'max', val/perplexity is best at its minimum"):
        watched(("val/perplexity", "min"), maximum)


def test_a_saved_schedule_forgets_the_number_of_steps():
    """A run of 4 steps goes on as one of 8: the schedule is stretched, not at its end."""

    def make(steps):
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0, momentum=0.9)
        return optimizer, lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps)

    optimizer, schedule = make(4)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    state = schedule.state_dict()
    stretched, again = make(8)
    again.load_state_dict(without_totals(state))
    assert again.total_steps == 8 and again.last_epoch == 3
    for _ in range(4):
        stretched.step()
        again.step()
    unbroken, whole = make(8)
    for _ in range(7):
        unbroken.step()
        whole.step()
    assert stretched.param_groups[0]["lr"] == unbroken.param_groups[0]["lr"]
    assert state["total_steps"] == 4, "the state itself is not changed"
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    assert "T_max" not in without_totals(cosine.state_dict())
    rate = lr_scheduler.LambdaLR(optimizer, lambda step: Linear()(step / 10))
    assert without_totals(rate.state_dict()) == rate.state_dict()


NET = {"image_size": 8, "patch_size": 4, "width": 12, "depth": 3, "heads": 2, "num_classes": 5}


def test_a_layer_is_an_item_of_an_outermost_list():
    names = ["token", "embed.weight", "blocks.0.a.0.weight", "blocks.0.b", "blocks.1.a", "head.w"]
    assert layers(names) == [0, 0, 1, 1, 2, 3]
    assert layers(["stem.w", "stages.0.0.w", "stages.0.1.w", "stages.1.0.w"]) == [0, 1, 1, 2]
    assert layers(["0.weight", "0.bias", "2.weight"]) == [0, 0, 1]
    assert layers([]) == []


def test_the_rates_are_timms():
    from timm.optim import param_groups_layer_decay

    from dlreview.reference import to_reference

    net = ViT(**NET)
    theirs, ours = Counter(), Counter()
    for group in param_groups_layer_decay(to_reference(net, "timm"), layer_decay=0.7):
        theirs[round(group["lr_scale"], 9)] += sum(p.numel() for p in group["params"])
    groups = parameter_groups(net, by_layer=True, decay_vectors=False)
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scale_rates(optimizer, None, 0.7)
    for group in optimizer.param_groups:
        ours[round(group["lr"], 9)] += sum(p.numel() for p in group["params"])
    # timm counts the last norm to the last block, BEiT (where the rule is from) and we to the head.
    norm = sum(p.numel() for p in net.norm.parameters())
    theirs.update({1.0: norm, 0.7: -norm})
    assert ours == theirs


def test_vectors_do_not_decay():
    net = ViT(**NET)
    groups = parameter_groups(net, by_layer=False, decay_vectors=False)
    spared = {id(p) for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
    for name, p in net.named_parameters():
        assert (id(p) in spared) == (name.endswith("bias") or "norm" in name or "class_e" in name)
    assert len(parameter_groups(net, by_layer=False, decay_vectors=True)) == 1


def test_frozen_parameters_are_left_out():
    net = nn.Linear(3, 4)
    net.bias.requires_grad_(False)
    groups = parameter_groups(net, by_layer=True, decay_vectors=True)
    assert [p for group in groups for p in group["params"]] == [net.weight]


def sequence(optimizer):
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5),
        lr_scheduler.StepLR(optimizer, 4),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[5])


def chain(optimizer):
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5),
        lr_scheduler.StepLR(optimizer, 4),
    ]
    return lr_scheduler.ChainedScheduler(parts)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=20),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=20),
        lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=10),
        lambda o: lr_scheduler.LambdaLR(o, lambda step: WarmupCosine()(step / 20)),
        sequence,
        chain,
    ],
    ids=["one-cycle", "cosine", "linear", "rate", "sequence", "chain"],
)
def test_layers_keep_their_proportion_under_every_schedule(make):
    net = ViT(**NET)
    groups = parameter_groups(net, by_layer=True, decay_vectors=True)
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    plain = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0, momentum=0.9)
    schedule, reference = make(optimizer), make(plain)
    scale_rates(optimizer, schedule, 0.5)
    for _ in range(19):
        rate = plain.param_groups[0]["lr"]
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(rate * 0.5 ** group["layers_above"])
        for one in (plain, optimizer):
            one.step()
        for one in (reference, schedule):
            one.step()


def test_layers_keep_their_proportion_on_a_plateau():
    net = ViT(**NET)
    groups = parameter_groups(net, by_layer=True, decay_vectors=True)
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = PLATEAU(optimizer)
    scale_rates(optimizer, schedule, 0.5)
    for step in range(4):
        for group in optimizer.param_groups:
            assert group["lr"] == 0.5 ** (group["layers_above"] + max(0, step - 1))
        schedule.step(1.0)


@pytest.mark.parametrize("rate", [None, Linear(0.5), Warmup(0.5)])
def test_scheduled_scales_the_layers(rate: Rate | None):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    groups = parameter_groups(net, by_layer=True, decay_vectors=True)
    made = scheduled(SGD(groups), rate, Regression(), layer_decay=0.1)
    optimizer = made if rate is None else made["optimizer"]
    factor = 0.5 if rate is None else 0.5 * rate(0.0)
    scales = {group["layers_above"]: group["lr"] for group in optimizer.param_groups}
    assert scales == pytest.approx({0: factor, 1: 0.1 * factor, 2: 0.01 * factor})
    if rate is not None:
        entry = made["lr_scheduler"]
        assert entry["interval"] == "step" and "monitor" not in entry
        assert sorted(entry["scheduler"].base_lrs) == pytest.approx([0.005, 0.05, 0.5])
