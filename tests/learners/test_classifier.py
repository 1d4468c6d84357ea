"""The classifier: its objective is torch's, it learns, measures exactly, draws and refuses."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from dlreview.data.images import Images
from dlreview.learners.classifier import Classifier, cross_entropy
from dlreview.nn.vit import ViT
from tests.learners import bare_trainer

NET = {"image_size": 8, "patch_size": 4, "width": 16, "depth": 2, "heads": 2, "image_channels": 1}


class Flat(nn.Sequential):
    """Any network will do: this one does not know how many classes it has."""

    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_torchs(smoothing):
    logits = torch.randn(5, 7, dtype=torch.float64).mul(3).float()
    label = torch.tensor([0, 6, 3, 3, 1])
    expected = F.cross_entropy(logits, label, reduction="none", label_smoothing=smoothing)
    hard = F.one_hot(label, 7).float()
    torch.testing.assert_close(cross_entropy(logits, hard, smoothing), expected)
    soft = torch.rand(5, 7).softmax(1)
    expected = F.cross_entropy(logits, soft, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(logits, soft, smoothing), expected)


trainer = partial(bare_trainer.trainer, limit_train_batches=2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_trains_measures_and_draws(tmp_path, precision):
    learner = Classifier(
        ViT(**NET, num_classes=10), mixup=0.2, cutmix=1.0, label_smoothing=0.1, layer_decay=0.8
    )
    run = trainer(tmp_path, precision=precision, callbacks=[EMAWeightAveraging(decay=0.9)])
    data = Images(batch_size=33)  # an odd row, and a last batch of 30
    run.fit(learner, datamodule=data)
    drawn = sorted(path.name[:-11] for path in (tmp_path / "pictures").glob("*.png"))
    assert drawn == ["attention", "confusion"]
    if precision == "32-true":  # what was measured is what the averaged weights do
        images = data.test_set.columns["image"] / 127.5 - 1
        label, logits = data.test_set.columns["label"], learner.net.eval()(images)
        top = logits.topk(5).indices == label[:, None]
        metrics = run.callback_metrics
        torch.testing.assert_close(metrics["val/loss"], F.cross_entropy(logits, label))
        torch.testing.assert_close(metrics["val/accuracy"], top[:, 0].float().mean())
        torch.testing.assert_close(metrics["val/top5"], top.any(1).float().mean())


def test_the_same_seed_gives_the_same_weights(tmp_path):
    nets = []
    for seed in (0, 1):  # what is drawn depends on the recipe's seed alone
        torch.manual_seed(5)
        net = ViT(**NET, num_classes=10, head_dropout=0.1)
        torch.manual_seed(seed)
        run = trainer(tmp_path, limit_val_batches=0)
        run.fit(Classifier(net, mixup=0.2, cutmix=1.0), datamodule=Images(batch_size=32))
        nets.append(net)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_it_overfits_one_batch():
    torch.manual_seed(0)
    learner = Classifier(ViT(**NET, num_classes=10), lambda p: torch.optim.AdamW(p, lr=3e-3))
    images, label = torch.rand(16, 1, 8, 8) * 2 - 1, torch.arange(16) % 10
    optimizer = learner.configure_optimizers()
    for _ in range(150):
        loss = cross_entropy(learner.net(images), F.one_hot(label, 10).float()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert torch.equal(learner.net(images).argmax(1), label)


@pytest.mark.parametrize("classes", [10, 12])
def test_any_network_with_any_number_of_classes(tmp_path, classes):
    run = trainer(tmp_path, limit_train_batches=1)
    run.fit(Classifier(Flat(classes), num_classes=classes), datamodule=Images(batch_size=32))
    assert 0 <= run.callback_metrics["val/accuracy"] <= run.callback_metrics["val/top5"] <= 1
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["confusion_000001.png"]


def test_two_classes_have_no_top_five():
    learner = Classifier(Flat(2), num_classes=2)
    learner.top5.update(torch.tensor([[0.1, 0.9], [0.9, 0.1]]), torch.tensor([0, 0]))
    assert learner.top5.compute() == 1


def test_more_classes_than_the_network_has_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"num_classes is 5.*10"):
        trainer(tmp_path).fit(Classifier(Flat(5), num_classes=5), datamodule=Images())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"net": ViT(**NET)}, "num_classes None"),
        ({"num_classes": 7}, "num_classes 7"),
        ({"net": Flat(3), "num_classes": 0}, "num_classes 0"),
        ({"net": Flat(3)}, "num_classes None"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"mixup": -0.1}, "mixup"),
        ({"cutmix": -1.0}, "cutmix"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"attention_images": -1}, "attention_images"),
    ],
)
def test_what_does_not_fit_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        Classifier(**({"net": ViT(**NET, num_classes=10)} | change))
