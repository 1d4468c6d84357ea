"""Tagging (rows 16-18; Huang et al. 2015, arXiv:1508.01991): one label for each word of a sentence.

"A bat flew out ..., making him drop his bat": a word means what its neighbours make of it. Words
that have several tags in the training text are measured apart, and the vectors of one of them are
drawn, each coloured by what the word is there.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import CatMetric, MeanMetric

from dlreview.learners.language_model import next_word_loss
from dlreview.learners.pictures import show
from dlreview.learners.rates import with_schedule
from dlreview.plots.words import clusters
from dlreview.randomness import mix, seed

TRAIN = 0  # what random numbers are for
SHOWN, COMPARED = 200, 5000  # vectors in the picture, and at most compared with each other


def tagging_loss(
    logits: Float[Tensor, "words tags"], tag: Int[Tensor, " words"]
) -> Float[Tensor, " words"]:
    """-log p(tag of word t | sentence) in nats, p = softmax(M h_t)."""
    return next_word_loss(logits, tag)


def agreement(vectors: Float[Tensor, "points width"], kind: Int[Tensor, " points"]) -> float:
    """Return the share of vectors whose nearest other one, by cosine, is of the same kind.

    Vectors apart by kind give 1; of one vector, 0.
    """
    unit = torch.nn.functional.normalize(vectors.float(), dim=1)
    cosine = unit @ unit.T
    cosine.fill_diagonal_(-torch.inf)
    if len(unit) < 2:
        return 0.0
    return float((kind[cosine.argmax(dim=1)] == kind).float().mean())


class Tagger(LightningModule):
    """Train a network to tag words, and show the vectors of an ambiguous one.

    Batches are those of `dlreview.data.tagged.Tagged`. `val/accuracy` is over all words,
    `val/accuracy_ambiguous` over those that have several tags in the training split,
    `val/accuracy_unseen` over those that are not in it. `val/vectors_agree` says how often the
    nearest vector of a chosen ambiguous word's h_t has the same tag: the word means several things.

    Args:
        net: a `dlreview.nn.tagger.RecurrentTagger` for the data's numbers of words, letters, tags.
        optimizer: makes the optimizer from the parameters.
        lr_schedule: makes the learning-rate schedule, stepped every optimizer step.
        shown: word whose vectors are drawn; null for the one of the test split whose second most
            frequent tag is the most frequent of all.

    Raises:
        ValueError: the network is not of the data's sizes, or the test split lacks `shown`.
    """

    reads = ("words", "form", "tags", "lengths", "spellings", "known")
    calls = ("words", "spellings", "form", "lengths")

    monitor = ("val/accuracy", "max")

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        shown: str | None = None,
    ) -> None:
        super().__init__()
        self.net, self.optimizer, self.lr_schedule = net, optimizer, lr_schedule
        self.shown = shown
        self.val_loss = MeanMetric()
        self.accuracy = nn.ModuleDict({k: MeanMetric() for k in ("all", "ambiguous", "unseen")})
        self.found = CatMetric(nan_strategy="disable")
        self.found_tags = CatMetric(nan_strategy="disable")

    def accept(self, data: Any, trainer: Any) -> None:
        """Compare the sizes of network and data: there may be room for more."""
        spelling = getattr(self.net, "spelling", None)
        sizes = {
            "vocabulary_size": (getattr(self.net, "vocabulary_size", 0), len(data.words)),
            "num_tags": (getattr(self.net, "num_tags", 0), len(data.tags)),
            "spelling.letters": (getattr(spelling, "letters", 0), len(data.letters)),
        }
        for name, (has, needs) in sizes.items():
            if has < needs:
                raise ValueError(
                    f"net.{name} is {has}, the data has {needs}\nset net.{name} to {needs}"
                )
        if self.shown is not None and not self.tag_counts(data)[self._number(data)].any():
            raise ValueError(f"shown {self.shown!r}: the test split has no such word")

    def _number(self, data: Any) -> int:
        return data.words.encode([str(self.shown).lower()])[0]

    def tag_counts(self, data: Any) -> Int[Tensor, "words tags"]:
        """Count how often each word of the test split has each tag; <unk>, many words, has none."""
        words = data.test_set.word[data.test_set.forms.text.long()]
        counts = torch.zeros(len(data.words), len(data.tags), dtype=torch.int64)
        place = words, data.test_set.tags.text.long()
        counts.index_put_(place, torch.ones_like(words), accumulate=True)
        counts[0] = 0
        return counts

    def setup(self, stage: str) -> None:
        """Refuse other data before the first step, and choose the word that is shown."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.accept(data, self.trainer)
        self.tag_names = data.tags.words
        if self.shown is not None:
            self.shown_number = self._number(data)
        else:
            second = self.tag_counts(data).topk(2, dim=1).values[:, 1]
            self.shown_number = int(second.argmax())
        self.shown_word = data.words.words[self.shown_number]

    def vectors(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch time width"]:
        """Return h_t of each word."""
        net: Any = self.net
        return net.vectors(batch["words"], batch["spellings"], batch["form"], batch["lengths"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of the global batch's words."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        torch.manual_seed(mix(seed(), TRAIN, self.current_epoch, batch_idx, rank))  # dropout
        logits = self.net(batch["words"], batch["spellings"], batch["form"], batch["lengths"])
        here = batch["tags"] >= 0
        losses = tagging_loss(logits[here], batch["tags"][here])
        # Processes have unequal numbers of words; their gradients are averaged.
        every = self.all_gather(torch.tensor(float(len(losses)), device=self.device)).sum()  # type: ignore[union-attr]
        loss = losses.sum() * (world / every)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure loss and accuracies; collect the vectors of the word that is shown."""
        if len(batch["words"]):
            net: Any = self.net
            here, h = batch["tags"] >= 0, self.vectors(batch)
            tags, known = batch["tags"][here], batch["known"][batch["form"]][here]
            logits = net.M(h[here])
            self.val_loss.update(tagging_loss(logits, tags))
            right = (logits.argmax(dim=1) == tags).float()
            metrics: Any = self.accuracy
            parts = {"all": known >= 0, "ambiguous": known > 1, "unseen": known == 0}
            for name, part in parts.items():
                metrics[name].update(right[part])
            chosen = here & (batch["words"] == self.shown_number)
            self.width = h.shape[2]
            self.found.update(h[chosen].flatten())  # flat, since a process may find none
            self.found_tags.update(batch["tags"][chosen])
        self.log("val/loss", self.val_loss, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracies; draw the word's vectors."""
        metrics: Any = self.accuracy
        self.log("val/accuracy", metrics["all"], prog_bar=True)
        self.log("val/accuracy_ambiguous", metrics["ambiguous"])
        self.log("val/accuracy_unseen", metrics["unseen"])
        tags = torch.as_tensor(self.found_tags.compute()).long().flatten()[:COMPARED]
        if len(tags):
            h = torch.as_tensor(self.found.compute()).view(-1, self.width)[:COMPARED]
            self.log("val/vectors_agree", agreement(h, tags))
            names = [self.tag_names[tag] for tag in tags[:SHOWN].tolist()]
            show(self, "vectors", clusters(h[:SHOWN], names, f"vectors of {self.shown_word!r}"))
        self.found.reset()
        self.found_tags.reset()

    def usage(self) -> dict[str, Any]:
        """Tell what the network is for: see `dlreview.usage`."""
        return {"task": "tagging"}

    def configure_optimizers(self) -> Any:
        """Make the optimizer and the schedule that the recipe names."""
        return with_schedule(self.optimizer(self.net.parameters()), self.lr_schedule)
