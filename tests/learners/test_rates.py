"""Learning rates by layer are timm's, and survive every kind of schedule."""

from collections import Counter

import pytest
import torch
from torch import nn

from dlreview.learners.rates import layers, parameter_groups, scale_rates
from dlreview.nn.vit import ViT

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


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=20),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20),
        lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=10),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    ],
    ids=["one-cycle", "cosine", "linear", "lambda"],
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
