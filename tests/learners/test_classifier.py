"""The classifier: its objective is torch's, it learns, measures exactly, draws and refuses."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from dlreview.data.images import Images
from dlreview.learners.classifier import Classifier, cross_entropy
from dlreview.learners.mixing import draw_keep
from dlreview.nn.vit import ViT
from tests.learners import bare_trainer
from tests.plots.small_cnn import SmallCNN

NET = {"image_size": 8, "patch_size": 4, "width": 16, "depth": 2, "heads": 2, "image_channels": 1}


class Flat(nn.Sequential):
    """A network that does not know how many classes it has."""

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


def test_a_cnn_draws_its_class_activation_maps(tmp_path):
    run = trainer(tmp_path, limit_train_batches=1, limit_val_batches=1)
    run.fit(Classifier(SmallCNN(classes=10), 10), datamodule=Images(batch_size=40))
    drawn = sorted(path.name[:-11] for path in (tmp_path / "pictures").glob("*.png"))
    assert drawn == ["cam", "confusion"]


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


def test_the_loss_mixes_images_and_labels_alike():
    """A network that is linear in the image: the logits of a blend are the blend of the logits."""
    learner = Classifier(Flat(3), num_classes=3, mixup=0.4, label_smoothing=0.1)
    batch = {"image": torch.randn(6, 1, 8, 8), "label": torch.tensor([0, 1, 2, 2, 1, 0])}
    keep = draw_keep(learner.random(batch, 7), torch.Size([8, 8]), 0.4, 0.0)[:, 0, 0, :1]
    other = [1, 0, 3, 2, 5, 4]
    logits, q = learner.net(batch["image"]), F.one_hot(batch["label"], 3).float()
    logits, q = (keep * x + (1 - keep) * x[other] for x in (logits, q))
    expected = F.cross_entropy(logits, q, reduction="none", label_smoothing=0.1)
    loss = learner.loss(batch, learner.random(batch, 7))
    torch.testing.assert_close(loss, expected)
    assert not torch.equal(loss, learner.loss(batch, learner.random(batch, 8)))


def test_it_overfits_one_batch():
    torch.manual_seed(0)
    make = partial(torch.optim.AdamW, lr=3e-3)
    learner = Classifier(ViT(**NET, num_classes=10), optimizer=make)
    images, label = torch.rand(16, 1, 8, 8) * 2 - 1, torch.arange(16) % 10
    batch = {"image": images, "label": label}
    optimizer = learner.configure_optimizers()
    for _ in range(150):
        loss = learner.loss(batch, learner.random(batch)).mean()
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": ViT(**NET)}, "num_classes is None, the network's num_classes is None"),
        ({"num_classes": 7}, "num_classes is 7, the network's num_classes is 10"),
        ({"net": Flat(3), "num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"net": Flat(3)}, "num_classes is None"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"mixup": -0.1}, "mixup must be at least 0, got -0.1"),
        ({"cutmix": -1.0}, "cutmix must be at least 0, got -1.0"),
        ({"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\], got 0.0"),
        ({"attention_images": -1}, "attention_images must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Classifier(**({"net": ViT(**NET, num_classes=10)} | change))
