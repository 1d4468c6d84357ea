"""Translation by an encoder-decoder (rows 19, 25-27; Vaswani et al. 2017, arXiv:1706.03762).

The encoder reads a sentence; the decoder writes its translation token by token and attends to what
the encoder has made of the sentence. Label smoothing: Szegedy et al. 2016, arXiv:1512.00567.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from dlreview.data.tokenizer import Encoder
from dlreview.learners.learner import Batch, Learner, Weighted
from dlreview.learners.pictures import show
from dlreview.learners.rates import Rate, parameter_groups
from dlreview.learners.written import Written, text_losses, write_texts
from dlreview.messages import check_at_least, check_share
from dlreview.metrics.text import bleu, chrf, exact_match
from dlreview.plots.alignment import alignment
from dlreview.randomness import RowRandom


class Translation(Learner):
    """Train a network to translate.

    Batches are those of `dlreview.data.translation.Translation`. `val/loss` is in nats per token,
    without smoothing. Of the first `translated` test rows, translated token by token, `val/exact`
    is the share of exact translations, `val/bleu` and `val/chrf` are in percent; `translations.tsv`
    in the run's folder has the first of them. No network writes <unk>, so that a wanted
    translation with <unk> is never met. The picture shows where the decoder looked.

    Args:
        net: `dlreview.nn.encoder_decoder.EncoderDecoder`.
        optimizer: makes the optimizer from the parameters; norms and biases do not decay.
        lr_schedule: how the rate changes, see `Learner`.
        label_smoothing: share of each target that is spread over all tokens.
        translated: number of test rows that are translated at each validation.
        compile: see `Learner`.

    Raises:
        ValueError: a value is out of range.
    """

    reads = ("source", "source_mask", "target", "target_mask", "row")
    monitor = ("val/exact", "max")

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_schedule: Rate | LRSchedulerCallable | None = None,
        label_smoothing: float = 0.1,
        translated: int = 500,
        compile: bool = False,
    ) -> None:
        super().__init__(optimizer, lr_schedule, compile)
        check_share(label_smoothing=label_smoothing)
        check_at_least(1, translated=translated)  # the best checkpoint is chosen by them
        self.net, self.label_smoothing, self.translated = net, label_smoothing, translated
        self.written = Written()

    def parameter_groups(self) -> Any:
        """Let the weights of matrices decay only."""
        return parameter_groups(self.net, by_layer=False, decay_vectors=False)

    def losses(self, batch: Batch, smoothing: float) -> Weighted:
        """Return the loss of each token of the translations."""
        source, source_mask = batch["source"], batch["source_mask"]
        write = partial(self.net, source, source_mask=source_mask)
        return text_losses(write, batch["target"], batch["target_mask"], smoothing)

    def loss(self, batch: Batch, random: RowRandom) -> Weighted:
        """Return the smoothed loss of each token of the translations."""
        return self.losses(batch, self.label_smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the loss, and translate the first rows."""
        if len(batch["source"]):
            self.val_loss.update(*self.losses(batch, 0.0))
            self.translate(self.written.choose(batch, self.translated, self.trainer))
            if batch_idx == 0 and self.trainer.is_global_zero:
                self.show_alignment(batch)
        self.log("val/loss", self.val_loss, prog_bar=True)

    def translate(self, batch: Batch) -> None:
        """Translate the rows of a batch, if there are any, and keep the texts."""
        if not len(batch["row"]):
            return
        net: Any = self.net
        encoder: Encoder = self.trainer.datamodule.encoder  # type: ignore[attr-defined]
        source, target = batch["source"], batch["target"]
        length = 2 * target.shape[1]  # longer ones are wrong anyway
        if net.max_length is not None:
            length = min(length, net.max_length)
        ids = write_texts(net, net.start(source, batch["source_mask"], length), len(source), length)
        texts = (encoder.decode_all(rows.tolist(), True) for rows in (source, ids, target))
        self.written.update(batch["row"].tolist(), *texts)

    def show_alignment(self, batch: Batch) -> None:
        """Draw where the decoder looked in the first row, in the last layer, all heads averaged."""
        net: Any = self.net
        encoder: Encoder = self.trainer.datamodule.encoder  # type: ignore[attr-defined]
        kept, wanted = (batch[name][0].bool() for name in ("source_mask", "target_mask"))
        source, target = batch["source"][:1, kept], batch["target"][:1, wanted]
        weights = net.context_weights(source, target[:, :-1])[-1][0].mean(dim=0)
        words = encoder.tokens(target[0, 1:].tolist()), encoder.tokens(source[0].tolist())
        show(self, "alignment", alignment(weights, *words))

    def on_validation_epoch_end(self) -> None:
        """Score the translations."""
        written, wanted = self.written.compute()
        if not wanted:
            return
        # Every process has all texts, and so the same scores.
        scores = {"exact": exact_match, "bleu": bleu, "chrf": chrf}
        for name, score in scores.items():
            self.log(f"val/{name}", score(written, wanted), prog_bar=name == "exact")
        if self.trainer.is_global_zero:
            self.written.save(Path(self.trainer.default_root_dir) / "translations.tsv")

    def usage(self) -> dict[str, Any]:
        """Tell what the network is for: see `dlreview.usage`."""
        return {"task": "translation"}
