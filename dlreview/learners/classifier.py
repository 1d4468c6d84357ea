"""Classification (row 29): say which class an image shows, under labels that may be soft.

Label smoothing: Szegedy et al. 2016, arXiv:1512.00567. Mixup: Zhang et al. 2018, arXiv:1710.09412.
CutMix: Yun et al. 2019, arXiv:1905.04899. Rates by layer: Clark et al. 2020, arXiv:2003.10555.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from dlreview.learners.mixing import blend, draw_keep
from dlreview.learners.pictures import show
from dlreview.learners.rates import parameter_groups, with_schedule
from dlreview.nn.vit import ViT
from dlreview.plots.attention import attention
from dlreview.plots.confusion import confusion
from dlreview.randomness import RowRandom

TRAIN = 0  # what random numbers are for


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


class Classifier(LightningModule):
    """Train a network to name the class of an image.

    Batches are {"image": pixels in [-1, 1], "label": 0..num_classes-1}.

    Args:
        net: called net(images), gives logits.
        optimizer: makes the optimizer from the parameters.
        lr_schedule: makes the learning-rate schedule, stepped every optimizer step.
        num_classes: classes; null for the network's own `num_classes`.
        label_smoothing: share of each label that is spread over all classes.
        mixup: a of the Beta(a, a) from which shares of two images are drawn; 0 for none.
        cutmix: likewise, for rectangles cut from one image into another; with both, each row is
            mixed in one way or the other.
        layer_decay: factor of the learning rate from each layer to the one below (`rates`).
        decay_vectors: let weight decay act on biases, norms and other vectors too.
        confusion: draw who is taken for whom at each validation.
        attention_images: images of which is drawn, at each validation, what a ViT attends to.
        compile: let torch.compile fuse the network; worth its minute of compilation on a GPU.

    Raises:
        ValueError: a value is out of range, or how many classes there are is not said, or said
            twice and differently.
    """

    reads = ("image", "label")
    calls = ("images",)

    monitor = ("val/accuracy", "max")

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_schedule: LRSchedulerCallable | None = None,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        layer_decay: float = 1.0,
        decay_vectors: bool = False,
        confusion: bool = True,
        attention_images: int = 8,
        compile: bool = False,
    ) -> None:
        super().__init__()
        own = getattr(net, "num_classes", None)
        classes = own if num_classes is None else num_classes
        if not classes or classes < 1 or own not in (None, classes):
            raise ValueError(
                f"num_classes {num_classes} with a network that has num_classes {own}: "
                "both must be the same positive number, or one of them left out"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        for name, value in {"mixup": mixup, "cutmix": cutmix}.items():
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay}")
        if not 0 <= attention_images <= 1000:
            raise ValueError(f"attention_images must be in 0..1000, got {attention_images}")
        self.net, self.optimizer, self.lr_schedule = net, optimizer, lr_schedule
        self.num_classes, self.label_smoothing = classes, label_smoothing
        self.mixup, self.cutmix = mixup, cutmix
        self.layer_decay, self.decay_vectors = layer_decay, decay_vectors
        self.draws_confusion, self.attention_images = confusion, attention_images
        # Checking each batch's labels would make the device wait.
        options: dict[str, Any] = {"num_classes": classes, "validate_args": False}
        self.val_loss = MeanMetric()
        self.accuracy = MulticlassAccuracy(average="micro", **options)
        self.top5 = MulticlassAccuracy(average="micro", top_k=min(5, classes), **options)
        self.confused = MulticlassConfusionMatrix(**options)
        if compile:
            self.net.compile()

    def accept(self, data: Any, trainer: Any) -> None:
        """Refuse data that the network does not fit."""
        names = getattr(data, "class_names", [])
        if len(names) > self.num_classes:
            raise ValueError(f"num_classes is {self.num_classes}, the data has {len(names)}")

    def setup(self, stage: str) -> None:
        """Refuse such data before the first step."""
        self.accept(getattr(self.trainer, "datamodule", None), self.trainer)

    def _class_names(self) -> list[str]:
        return getattr(getattr(self.trainer, "datamodule", None), "class_names", [])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of this process's rows, each mixed with its neighbour."""
        images, trainer = batch["image"], self.trainer
        q = F.one_hot(batch["label"], self.num_classes).float()
        key = (TRAIN, self.current_epoch, batch_idx)
        share = getattr(trainer.datamodule, "batch_size", None)  # type: ignore[attr-defined]
        random = RowRandom(
            len(images), images.device, key, trainer.global_rank, trainer.world_size, share
        )
        if self.mixup or self.cutmix:
            keep = draw_keep(random, images.shape[2:], self.mixup, self.cutmix)
            images, q = blend(images, q, keep)
        torch.manual_seed(random.own_seed)  # for dropout inside the network
        loss = cross_entropy(self.net(images), q, self.label_smoothing).mean()
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
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
        """Draw what a ViT attends to; in a validation averaged weights, if any, are in place."""
        count = min(self.attention_images, len(images))
        if count and isinstance(self.net, ViT) and self.trainer.is_global_zero:
            show(self, "attention", attention(self.net, images[:count]))

    def on_validation_epoch_end(self) -> None:
        """Draw who is taken for whom."""
        counts = self.confused.compute()  # every process takes part
        self.confused.reset()
        if self.draws_confusion and self.trainer.is_global_zero:
            names = self._class_names()
            show(self, "confusion", confusion(counts, names if len(names) == len(counts) else []))

    def usage(self) -> dict[str, Any]:
        """Tell how to call the network: see `dlreview.usage`."""
        return {"task": "classification", "settings": {"num_classes": self.num_classes}}

    def configure_optimizers(self) -> Any:
        """Make the optimizer and the schedule that the recipe names."""
        groups = parameter_groups(self.net, self.layer_decay < 1, self.decay_vectors)
        return with_schedule(self.optimizer(groups), self.lr_schedule, self.layer_decay)
