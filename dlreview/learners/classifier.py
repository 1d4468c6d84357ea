"""Classification (row 29): say which class an image shows, under labels that may be soft.

Label smoothing: Szegedy et al. 2016, arXiv:1512.00567. Mixup: Zhang et al. 2018, arXiv:1710.09412.
CutMix: Yun et al. 2019, arXiv:1905.04899. Rates by layer: Clark et al. 2020, arXiv:2003.10555.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from dlreview.learners.classes import check_classes
from dlreview.learners.learner import Batch, Learner
from dlreview.learners.mixing import blend, draw_keep
from dlreview.learners.pictures import show
from dlreview.learners.rates import Rate, parameter_groups, scheduled
from dlreview.messages import check_at_least, check_share
from dlreview.plots.attention import attention
from dlreview.plots.cam import cam
from dlreview.plots.confusion import confusion
from dlreview.randomness import RowRandom


def cross_entropy(
    logits: Float[Tensor, "batch classes"],
    q: Float[Tensor, "batch classes"],
    smoothing: float = 0.0,
) -> Float[Tensor, " batch"]:
    """L = -sum_k q'_k log p_k in nats, p = softmax(logits), q' = (1 - smoothing) q + smoothing / K.

    Args:
        logits: of K classes.
        q: what the classes should be, each row sums to 1.
        smoothing: share of q that is spread over all classes.
    """
    q = (1 - smoothing) * q + smoothing / q.shape[1]
    return -(q * logits.float().log_softmax(dim=1)).sum(dim=1)


class Classifier(Learner):
    """Train a network to name the class of an image.

    Batches are {"image": pixels in [-1, 1], "label": 0..num_classes-1}.

    Args:
        net: called net(images), gives logits.
        num_classes: number of classes; null for the network's own `num_classes`.
        optimizer: makes the optimizer from the parameters.
        lr_schedule: how the rate changes, see `Learner`.
        label_smoothing: share of each label that is spread over all classes.
        mixup: a of the Beta(a, a) from which shares of two images are drawn; 0 for none.
        cutmix: likewise, for rectangles cut from one image into another; with both, each row is
            mixed in one way or the other.
        layer_decay: factor of the learning rate from each layer to the one below (`rates`).
        decay_vectors: let weight decay act on biases, norms and other vectors too.
        confusion: draw the confusion matrix at each validation.
        attention_images: number of validation images whose attention maps are drawn, where the
            network has such maps; of a network with feature maps, its class activation maps.
        compile: see `Learner`.

    Raises:
        ValueError: a value is out of range, or the number of classes is not known or not the
            network's.
    """

    reads = ("image", "label")
    monitor = ("val/accuracy", "max")

    def __init__(  # one argument for each trick of the trade
        self,
        net: nn.Module,
        num_classes: int | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_schedule: Rate | LRSchedulerCallable | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        layer_decay: float = 1.0,
        decay_vectors: bool = False,
        confusion: bool = True,
        attention_images: int = 8,
        compile: bool = False,
    ) -> None:
        super().__init__(optimizer, lr_schedule, compile)
        own = getattr(net, "num_classes", None)
        classes = own if num_classes is None else num_classes
        if classes is None or own not in (None, classes):
            raise ValueError(f"num_classes is {num_classes}, the network's num_classes is {own}")
        check_share(label_smoothing=label_smoothing)
        check_at_least(1, num_classes=classes)
        check_at_least(0, mixup=mixup, cutmix=cutmix, attention_images=attention_images)
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay}")
        self.net, self.num_classes = net, classes
        self.label_smoothing, self.mixup, self.cutmix = label_smoothing, mixup, cutmix
        self.layer_decay, self.decay_vectors = layer_decay, decay_vectors
        self.draws_confusion, self.attention_images = confusion, attention_images
        # Checking each batch's labels would make the device wait.
        options: dict[str, Any] = {"num_classes": classes, "validate_args": False}
        self.accuracy = MulticlassAccuracy(average="micro", **options)
        self.top5 = MulticlassAccuracy(average="micro", top_k=min(5, classes), **options)
        self.confused = MulticlassConfusionMatrix(**options)

    def accept(self, data: Any, trainer: Any) -> None:
        """Refuse labels outside the network's classes."""
        check_classes(data, self.num_classes)

    def loss(self, batch: Batch, random: RowRandom) -> Float[Tensor, " batch"]:
        """Return the cross-entropy of each row, mixed with its neighbour."""
        images, q = batch["image"], F.one_hot(batch["label"], self.num_classes).float()
        if self.mixup or self.cutmix:
            keep = draw_keep(random, images.shape[2:], self.mixup, self.cutmix)
            images, q = blend(images, q, keep)
        return cross_entropy(self.net(images), q, self.label_smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure on plain images and labels; a process may have no rows in the last batch."""
        images, label = batch["image"], batch["label"]
        if len(images):
            logits = self.net(images).float()
            self.val_loss.update(F.cross_entropy(logits, label, reduction="none"))
            for metric in (self.accuracy, self.top5, self.confused):
                metric.update(logits, label)
        if batch_idx == 0:
            self.show_attention(images)
        self.log("val/loss", self.val_loss)
        self.log("val/accuracy", self.accuracy, prog_bar=True)
        self.log("val/top5", self.top5)

    def show_attention(self, images: Float[Tensor, "batch channels height width"]) -> None:
        """Draw where the network looks; averaged weights, if any, are in place in a validation."""
        net: Any = self.net
        count = min(self.attention_images, len(images))
        if not count or not self.trainer.is_global_zero:
            return
        if hasattr(net, "attention_maps"):
            show(self, "attention", attention(net, images[:count]))
        elif hasattr(net, "feature_map"):
            with contextlib.suppress(ValueError):  # a user's network may have another end
                show(self, "cam", cam(net, images[:count]))

    def on_validation_epoch_end(self) -> None:
        """Draw the confusion matrix."""
        counts = self.confused.compute()  # every process takes part
        self.confused.reset()
        if self.draws_confusion and self.trainer.is_global_zero:
            data: Any = getattr(self.trainer, "datamodule", None)
            names = getattr(data, "class_names", [])
            show(self, "confusion", confusion(counts, names if len(names) == len(counts) else []))

    def usage(self) -> dict[str, Any]:
        """Tell how to call the network: see `dlreview.usage`."""
        return {"task": "classification", "settings": {"num_classes": self.num_classes}}

    def configure_optimizers(self) -> Any:
        """Group parameters by layer and by whether weights decay."""
        groups = parameter_groups(self.net, self.layer_decay < 1, self.decay_vectors)
        return scheduled(self.optimizer(groups), self.lr_schedule, self, self.layer_decay)
