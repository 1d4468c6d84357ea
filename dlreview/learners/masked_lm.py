"""Masked language modelling (Devlin et al. 2019, arXiv:1810.04805, section 3.1).

Some tokens of a text are chosen, most of them are hidden, and the network says what they were:

    L = - sum_{i chosen} log p(w_i | corrupted text), in nats,

with p = softmax(head(h_i)). Of the chosen tokens 80 % become <mask>, 10 % another token and 10 %
stay, so that the network cannot rely on tokens that it sees.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from dlreview.data.tokenizer import MASK, SPECIALS
from dlreview.learners.cross_entropy import likeliest, token_losses
from dlreview.learners.learner import VALIDATE, Batch, Learner, Weighted
from dlreview.learners.rates import Rate, parameter_groups
from dlreview.messages import check_at_least
from dlreview.randomness import RowRandom

HIDDEN, REPLACED = 0.8, 0.1  # shares of the chosen tokens that become <mask>, or another token
IGNORE = -100  # in place of a word where a text has fewer chosen tokens than others


class Corrupted(NamedTuple):
    """Texts with hidden tokens; `words` are those that were at `places`, or IGNORE."""

    ids: Int[Tensor, "batch tokens"]
    places: Int[Tensor, "batch chosen"]
    words: Int[Tensor, "batch chosen"]


def corrupt(
    ids: Int[Tensor, "batch tokens"],
    mask: Bool[Tensor, "batch tokens"],
    numbers: Float[Tensor, "batch 3 tokens"],
    share: float,
    vocabulary_size: int,
) -> Corrupted:
    """Choose a `share` of the tokens of each text, at least one, and hide most of them.

    Special tokens and padding are neither chosen nor put in place of a token.

    Args:
        ids: the texts.
        mask: True at tokens, False at padding.
        numbers: random, uniform in [0, 1): they choose places, what happens there, and the token.
        share: of the tokens that are chosen.
        vocabulary_size: number of words, special tokens included.
    """
    choice, kind, word = numbers.unbind(1)
    eligible = mask & (ids >= len(SPECIALS))
    # The same number of places for all texts: shapes do not depend on the numbers.
    most = max(1, math.ceil(share * ids.shape[1]))
    rank, places = choice.masked_fill(~eligible, -1).topk(most, dim=1)
    wanted = (share * eligible.sum(dim=1)).round().clamp(min=1)
    chosen = (rank >= 0) & (torch.arange(most, device=ids.device) < wanted[:, None])
    before, kind = ids.gather(1, places), kind.gather(1, places)
    others = vocabulary_size - len(SPECIALS)
    drawn = len(SPECIALS) + (word.gather(1, places) * others).to(ids.dtype)
    after = torch.where(kind < HIDDEN + REPLACED, drawn, before).masked_fill(kind < HIDDEN, MASK)
    corrupted = ids.scatter(1, places, torch.where(chosen, after, before))
    return Corrupted(corrupted, places, before.masked_fill(~chosen, IGNORE))


def masked_lm_loss(
    hidden: Float[Tensor, "batch tokens width"],
    head: nn.Module,
    places: Int[Tensor, "batch chosen"],
    words: Int[Tensor, "batch chosen"],
) -> Float[Tensor, "batch chosen"]:
    """-log p(w_i | corrupted text) in nats for each chosen token i, 0 where a word is IGNORE.

    The head sees no other tokens.
    """
    return token_losses(pick(hidden, places), head, words, ignore=IGNORE)


def pick(
    hidden: Float[Tensor, "batch tokens width"], places: Int[Tensor, "batch chosen"]
) -> Float[Tensor, "batch chosen width"]:
    """Return the hidden states at some places."""
    return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))


def measure(
    hidden: Float[Tensor, "batch tokens width"],
    head: nn.Module,
    places: Int[Tensor, "batch chosen"],
    words: Int[Tensor, "batch chosen"],
) -> Float[Tensor, "batch chosen 2"]:
    """Return the loss of each chosen token, and 1 where its word is the likeliest."""
    right = likeliest(pick(hidden, places), head) == words
    return torch.stack([masked_lm_loss(hidden, head, places, words), right.float()], dim=-1)


class MostFrequent(Metric):
    """Share of the most frequent token: the accuracy of always predicting it."""

    counts: Tensor

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        zeros = torch.zeros(vocabulary_size, dtype=torch.long)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, words: Int[Tensor, " tokens"]) -> None:
        """Count tokens."""
        self.counts = self.counts.index_add(0, words, torch.ones_like(words))

    def compute(self) -> Float[Tensor, ""]:
        """Divide the largest count by the number of tokens."""
        return self.counts.max() / self.counts.sum().clamp(min=1)


class MaskedLM(Learner):
    """Train a network to say which tokens were hidden.

    Batches are {"ids", "mask"}, those of `dlreview.data.passages.Passages`: texts, and a mask that
    is 1 at tokens and 0 at padding, or None without padding.
    `val/accuracy` is over all chosen tokens; `val/most_frequent` is the accuracy of always
    predicting the most frequent one of them.

    Args:
        net: called net(ids, mask, score=score), where score(hidden, head) takes the place of
            head(hidden): `dlreview.nn.bert.BERT` with a `MaskedTokenHead`.
        optimizer: makes the optimizer from the parameters; weight decay spares biases and norms.
        lr_schedule: how the rate changes, see `Learner`.
        share: of the tokens that are chosen.
        compile: see `Learner`.

    Raises:
        ValueError: `share` is not in (0, 1], or the network has no head or no words beside the
            special tokens.
    """

    reads = ("ids", "mask")

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_schedule: Rate | LRSchedulerCallable | None = None,
        share: float = 0.15,
        compile: bool = False,
    ) -> None:
        super().__init__(optimizer, lr_schedule, compile)
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], got {share}")
        network: Any = net
        if getattr(net, "head", None) is None:
            raise ValueError(
                f"net must have a head that scores words, {type(net).__name__} has none"
            )
        check_at_least(len(SPECIALS) + 1, vocabulary_size=network.vocabulary_size)
        self.net, self.share = net, share
        self.accuracy = MeanMetric()
        self.most_frequent = MostFrequent(network.vocabulary_size)

    def corrupt(self, batch: Batch, random: RowRandom) -> Corrupted:
        """Hide tokens of a batch."""
        net: Any = self.net
        ids, mask = batch["ids"], batch["mask"]
        length = ids.shape[1]
        # As many numbers for short texts as for long ones, so that padding does not matter.
        numbers = random.uniform(3, max(net.max_length or 0, length))[..., :length]
        kept = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        return corrupt(ids, kept, numbers, self.share, net.vocabulary_size)

    def loss(self, batch: Batch, random: RowRandom) -> Weighted:
        """Return the loss of each chosen token."""
        ids, places, words = self.corrupt(batch, random)
        score = partial(masked_lm_loss, places=places, words=words)
        losses = self.net(ids, batch["mask"], score=score)
        return Weighted(losses, (words != IGNORE).to(losses.dtype))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure loss and accuracy, with the same tokens hidden at each validation."""
        if len(batch["ids"]):  # a process may have no rows at the end
            random = self.random(batch, VALIDATE, batch_idx)
            ids, places, words = self.corrupt(batch, random)
            score = partial(measure, places=places, words=words)
            measured = self.net(ids, batch["mask"], score=score)[words != IGNORE]
            self.val_loss.update(measured[:, 0])
            self.accuracy.update(measured[:, 1])
            self.most_frequent.update(words[words != IGNORE])
        self.log("val/loss", self.val_loss, prog_bar=True)
        self.log("val/accuracy", self.accuracy, prog_bar=True)
        self.log("val/most_frequent", self.most_frequent)

    def parameter_groups(self) -> Any:
        """Spare biases and norms the weight decay."""
        return parameter_groups(self.net, by_layer=False, decay_vectors=False)

    def usage(self) -> dict[str, Any]:
        """Tell what the network is for: see `dlreview.usage`."""
        return {"task": "fill_mask"}
