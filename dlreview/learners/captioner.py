"""Image captioning (rows 97-100): a decoder writes while it attends to the patches of a picture.

The picture's features are those of a Vision Transformer, which may come trained from elsewhere:
`freeze_encoder` keeps it as it is.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from dlreview.data.tokenizer import SPECIALS, UNK, Encoder
from dlreview.learners.learner import Batch, Learner, Weighted
from dlreview.learners.pictures import show
from dlreview.learners.rates import Rate, parameter_groups
from dlreview.learners.written import Written, text_losses, write_texts
from dlreview.messages import check_at_least, check_share
from dlreview.metrics.text import exact_match, most_frequent, word_overlap
from dlreview.plots.alignment import looked
from dlreview.randomness import RowRandom


class Captioner(Learner):
    """Train a network to write what a picture shows.

    Batches are those of `dlreview.data.pairs.ImageText`. `val/loss` is in nats per token, without
    smoothing. Of the first `captioned` test pictures `val/exact` is the share of captions that are
    exactly the wanted ones, `val/overlap` the mean F1 of their words. No network writes <unk>, so
    that a wanted caption with <unk> is never met. `val/exact_frequent` and `val/overlap_frequent`
    are those of the most frequent caption without <unk>, written for all.
    `captions.tsv` in the run's folder has the first of them; the picture shows where the decoder
    looked while it wrote.

    Args:
        net: `dlreview.nn.captioner.VisionEncoderDecoder`.
        optimizer: makes the optimizer from the parameters; norms and biases do not decay.
        lr_schedule: how the rate changes, see `Learner`.
        label_smoothing: share of each target that is spread over all tokens.
        captioned: number of test pictures that are captioned at each validation.
        freeze_encoder: keep the encoder as it is, in evaluation mode, and train the rest only.
        compile: see `Learner`.

    Raises:
        ValueError: a value is out of range.
    """

    reads = ("image", "ids", "mask", "row")
    monitor = ("val/exact", "max")

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_schedule: Rate | LRSchedulerCallable | None = None,
        label_smoothing: float = 0.0,
        captioned: int = 500,
        freeze_encoder: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__(optimizer, lr_schedule, compile)
        check_share(label_smoothing=label_smoothing)
        check_at_least(1, captioned=captioned)  # the best checkpoint is chosen by them
        self.net, self.label_smoothing, self.captioned = net, label_smoothing, captioned
        self.freeze_encoder, self.written = freeze_encoder, Written()
        captioner: Any = net
        # Nobody calls the head of a ViT that was a classifier. It stays in the network.
        for unused in captioner.unused():
            unused.requires_grad_(False)
        if freeze_encoder:
            captioner.encoder.requires_grad_(False).eval()

    def parameter_groups(self) -> Any:
        """Let the weights of matrices decay only."""
        return parameter_groups(self.net, by_layer=False, decay_vectors=False)

    def losses(self, batch: Batch, smoothing: float) -> Weighted:
        """Return the loss of each token of the captions."""
        write = partial(self.net, batch["image"])
        return text_losses(write, batch["ids"], batch["mask"], smoothing)

    def loss(self, batch: Batch, random: RowRandom) -> Weighted:
        """Return the smoothed loss of each token of the captions."""
        return self.losses(batch, self.label_smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the loss, and write captions for the first pictures."""
        if len(batch["image"]):
            self.val_loss.update(*self.losses(batch, 0.0))
            self.caption(self.written.choose(batch, self.captioned, self.trainer))
            if batch_idx == 0 and self.trainer.is_global_zero:
                self.show_looked(batch)
        self.log("val/loss", self.val_loss, prog_bar=True)

    def caption(self, batch: Batch) -> None:
        """Write captions for the pictures of a batch, if there are any, and keep them."""
        if not len(batch["row"]):
            return
        net: Any = self.net
        encoder: Encoder = self.trainer.datamodule.encoder  # type: ignore[attr-defined]
        images, length = batch["image"], net.max_length
        ids = write_texts(net, net.start(images, length), len(images), length)
        texts = (encoder.decode_all(rows.tolist(), True) for rows in (ids, batch["ids"]))
        numbers = batch["row"].tolist()
        self.written.update(numbers, list(map(str, numbers)), *texts)

    def show_looked(self, batch: Batch) -> None:
        """Draw where the decoder looked in the first picture, in the last layer, heads averaged."""
        net: Any = self.net
        encoder: Encoder = self.trainer.datamodule.encoder  # type: ignore[attr-defined]
        image, ids = batch["image"][:1], batch["ids"][:1, batch["mask"][0].bool()]
        weights = net.context_weights(image, ids[:, :-1])[-1][0].mean(dim=0)
        words, grid = encoder.tokens(ids[0, 1:].tolist()), net.grid(*image.shape[-2:])
        show(self, "looked", looked(image[0], weights, words, grid))

    def on_validation_epoch_end(self) -> None:
        """Score the captions, and the most frequent one beside them."""
        written, wanted = self.written.compute()
        if not wanted:
            return
        known = [text for text in wanted if SPECIALS[UNK] not in text]
        same = [most_frequent(known)] * len(wanted)
        for name, score in {"exact": exact_match, "overlap": word_overlap}.items():
            self.log(f"val/{name}", score(written, wanted), prog_bar=name == "exact")
            self.log(f"val/{name}_frequent", score(same, wanted))
        if self.trainer.is_global_zero:
            self.written.save(Path(self.trainer.default_root_dir) / "captions.tsv")

    def usage(self) -> dict[str, Any]:
        """Tell what the network is for: see `dlreview.usage`."""
        return {"task": "captioning"}
