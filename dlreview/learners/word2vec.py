"""Word2vec (Mikolov et al. 2013, arXiv:1301.3781 and arXiv:1310.4546; review rows 1-5).

Skip-gram: predict each word of the context from the target. CBOW: predict the target from the mean
of its context. The review's objective is the softmax over the whole vocabulary; negative sampling,
which the review does not name, asks instead to tell the word from a few drawn ones.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchmetrics import MeanMetric

from dlreview.learners.pictures import show
from dlreview.learners.rates import with_schedule
from dlreview.learners.windows import Examples, draw_negatives, examples, keep_probability
from dlreview.metrics import word_similarity
from dlreview.plots.words import scatter
from dlreview.randomness import mix, seed
from dlreview.samplers.alias import UNIT, alias_table

TRAIN, VALIDATE = 0, 1  # what random numbers are for
AT_ONCE = 4096  # rows that are scored for all words at a time
SHOWN, ENOUGH = 60, 30  # words in the picture, test items that say something
QUESTIONS = 19_544  # analogies of the test set


def full_softmax_loss(
    logits: Float[Tensor, "examples vocabulary"], word: Int[Tensor, " examples"]
) -> Float[Tensor, " examples"]:
    """Rows 4-5: L = -log (exp(u_o h) / sum_w exp(u_w h)) in nats, over all words w."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    own = logits.gather(1, word[:, None])[:, 0]
    return logits.logsumexp(dim=1) - own


def log_partition(net: nn.Module, hidden: Float[Tensor, "rows width"]) -> Float[Tensor, " rows"]:
    """Compute log sum_w exp(u_w h), some rows at a time: all rows times all words may not fit.

    Backward computes the scores of those rows again.
    """

    def some(h: Float[Tensor, "some width"]) -> Float[Tensor, " some"]:
        words: Any = net.output
        return (h @ words.weight.T).float().logsumexp(dim=1)

    parts = hidden.split(AT_ONCE)
    if len(parts) == 1:
        return some(hidden)
    how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat([checkpoint(some, h, **how) for h in parts])


def negative_sampling_loss(
    word: Float[Tensor, " examples"],
    negatives: Float[Tensor, "examples negatives"],
    counted: Bool[Tensor, "examples negatives"],
) -> Float[Tensor, " examples"]:
    """L = -log sigma(u_o h) - sum_k log sigma(-u_k h) in nats (Mikolov et al. 2013b, eq. 4).

    Args:
        word: scores u_o h.
        negatives: scores u_k h of drawn words.
        counted: False where the drawn word is o itself.
    """
    return -F.logsigmoid(word) - (F.logsigmoid(-negatives) * counted).sum(dim=1)


class Word2Vec(LightningModule):
    """Train word vectors, and measure them by human judgements of similarity.

    `val/wordsim353` is Spearman's correlation with people over the pairs of WordSim-353 whose words
    are both in the vocabulary, `val/wordsim353_covered` their share; likewise SimLex-999.
    `val/analogies` is the share of "a is to b as c is to ?" that is answered rightly. Of fewer than
    30 items these say nothing, and are left out.

    Batches are sentences: {"text", "bounds", "row"} of `dlreview.data.corpus.Corpus`.

    Args:
        net: `dlreview.nn.word2vec.Word2Vec`, of as many words as the data has.
        method: "skipgram" or "cbow".
        objective: "negative_sampling" or "full_softmax", which needs update "autograd".
        update: "sequential" takes a step of plain SGD on every single example, in the compiled
            loop of `word2vec_kernel` on one CPU core, and repeats bit for bit. "hogwild" has
            `threads` of them write into the same vectors without locks; no two runs are the same.
            It wants large batches (8,192 sentences of Brown), and takes torch's own threads away
            while it runs, since those wait by spinning. "autograd" takes one step of `optimizer` a
            batch, on any device and any number of processes.
        window: largest distance of context words; each word draws its own in 1..window.
        negatives: words drawn to be told from the right one, by unigram counts^0.75.
        sample: share of the text above which a word is frequent, and dropped more often the more
            frequent it is; 0 drops none.
        rate: learning rate of the compiled loop at the start. CBOW divides each step by the words
            of the context, as its gradient says, and needs about six times skip-gram's.
        last_rate: at the end; in between it falls linearly.
        threads: of "hogwild"; null for one a core.
        optimizer: of "autograd".
        lr_schedule: of "autograd", stepped every optimizer step.

    Raises:
        ValueError: an argument is out of range, the network is not of the data's size, or the
            compiled loop is asked for what it has not: other objectives, processes, devices.
    """

    reads = ("text", "bounds", "row")

    monitor = ("val/loss", "min")
    keep: Tensor
    threshold: Tensor
    other: Tensor

    def __init__(
        self,
        net: nn.Module,
        method: Literal["skipgram", "cbow"] = "skipgram",
        objective: Literal["negative_sampling", "full_softmax"] = "negative_sampling",
        update: Literal["sequential", "hogwild", "autograd"] = "sequential",
        window: int = 5,
        negatives: int = 5,
        sample: float = 1e-3,
        rate: float = 0.025,
        last_rate: float = 1e-4,
        threads: int | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_schedule: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        for name, size in {"window": window, "negatives": negatives, "threads": threads}.items():
            if size is not None and not 1 <= size <= 1000:
                raise ValueError(f"{name} must be in 1..1000, got {size}")
        for name, value in {"sample": sample, "rate": rate, "last_rate": last_rate}.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 0, got {value}")
        if objective == "full_softmax" and update != "autograd":
            raise ValueError(f"objective 'full_softmax' needs update 'autograd', got {update!r}")
        self.net, self.optimizer, self.lr_schedule = net, optimizer, lr_schedule
        self.skip_gram, self.objective, self.update = method == "skipgram", objective, update
        self.window, self.negatives, self.sample = window, negatives, sample
        self.rates = (rate, last_rate)
        self.threads = (threads or os.cpu_count() or 1) if update == "hogwild" else 1
        self.automatic_optimization = update == "autograd"
        self.val_loss = MeanMetric()

    def accept(self, data: Any, trainer: Any) -> None:
        """Compare the sizes of network and data; refuse devices that the compiled loop has not."""
        has, words = getattr(self.net, "vocabulary_size", None), len(data.vocabulary)
        if has != words:
            raise ValueError(
                f"net.vocabulary_size is {has}, the data has {words} words\n"
                f"set net.vocabulary_size to {words}"
            )
        if self.update != "autograd" and trainer.world_size > 1:
            raise ValueError(f"update {self.update!r} runs in one process\nset update to autograd")
        if self.update != "autograd" and trainer.strategy.root_device.type != "cpu":
            raise ValueError(f"update {self.update!r} runs on the CPU\nset update to autograd")

    def setup(self, stage: str) -> None:
        """Derive from the counts of the words how often each is kept, and drawn as a negative."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.accept(data, self.trainer)
        vocabulary = data.vocabulary
        self.words = vocabulary.words
        counts = torch.tensor(vocabulary.counts, dtype=torch.float64)
        self.alias = alias_table(counts.pow(0.75).numpy())
        threshold, other = (torch.from_numpy(x.astype("int64")) for x in self.alias)
        keep = keep_probability(counts, self.sample).float()
        for name, table in {"keep": keep, "threshold": threshold, "other": other}.items():
            self.register_buffer(name, table, persistent=False)

    def on_fit_start(self) -> None:
        """Leave the cores to "hogwild"."""
        self.torch_threads = torch.get_num_threads()
        if self.update == "hogwild":
            torch.set_num_threads(1)

    def on_fit_end(self) -> None:
        """Give torch its threads back."""
        torch.set_num_threads(self.torch_threads)

    def examples(self, batch: dict[str, Tensor], key: int) -> Examples:
        """List what a batch teaches."""
        how: dict[str, Any] = {"window": self.window, "skip_gram": self.skip_gram, "key": key}
        return examples(batch["text"], batch["bounds"], batch["row"], self.keep, **how)

    def losses(self, part: Examples) -> Float[Tensor, " examples"]:
        """Measure the objective of each example."""
        net: Any = self.net
        if self.objective == "full_softmax":
            return self.full_softmax(part)
        drawn = draw_negatives(part.key, self.negatives, (self.threshold, self.other))
        targets = torch.cat([part.word[:, None], drawn], dim=1)
        scores = net.scores(net.hidden(part.context, part.mask), targets).float()
        return negative_sampling_loss(scores[:, 0], scores[:, 1:], drawn != part.word[:, None])

    def full_softmax(self, part: Examples) -> Float[Tensor, " examples"]:
        """Compute `full_softmax_loss`; in skip-gram equal targets, often many, share their sum."""
        net: Any = self.net
        hidden, own = net.hidden(part.context, part.mask), slice(None)
        if part.mask is None:
            distinct, own = part.context[:, 0].unique(return_inverse=True)
            hidden = net.hidden(distinct[:, None])
        score = net.scores(hidden[own], part.word[:, None])[:, 0].float()
        return log_partition(net, hidden)[own] - score

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """Return the mean loss of the global batch's examples, or take its steps."""
        key = mix(seed(), TRAIN, self.current_epoch, batch_idx)
        if self.update != "autograd":
            self.log("train/loss", self.compiled_pass(batch, key), prog_bar=True)
            return None
        losses = self.losses(self.examples(batch, key))
        # Processes have unequal numbers of examples; their gradients are averaged.
        count = torch.tensor(float(len(losses)), device=self.device)
        every = self.all_gather(count).sum().clamp(min=1)  # type: ignore[union-attr]
        loss = losses.sum() * (self.trainer.world_size / every)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def compiled_pass(self, batch: dict[str, Tensor], key: int) -> float:
        """Take a step of SGD on each example of a batch; return their mean loss."""
        from dlreview.learners.word2vec_kernel import train_pass

        net: Any = self.net
        total, done = self.trainer.estimated_stepping_batches, self.global_step
        first, last = (
            self.rates[0] + (self.rates[1] - self.rates[0]) * min(1.0, step / total)
            for step in (done, done + 1)
        )
        loss, count = train_pass(
            net.input.weight.detach().numpy(),
            net.output.weight.detach().numpy(),
            batch["text"].numpy(),
            batch["bounds"].numpy(),
            (self.keep.double() * (UNIT - 1)).numpy().astype("uint32"),
            self.alias,
            negatives=self.negatives,
            window=self.window,
            skip_gram=self.skip_gram,
            rates=(first, last),
            seeds=[mix(key, thread) for thread in range(self.threads)],
        )
        optimizer: Any = self.optimizers()
        optimizer.step()  # there are no gradients: it only counts the step
        return loss / max(1, count)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure the objective on the test split, with the same draws at each validation."""
        self.val_loss.update(self.losses(self.examples(batch, mix(seed(), VALIDATE))))
        self.log("val/loss", self.val_loss, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        """Compare cosines with human judgements, and draw frequent words."""
        net: Any = self.net
        vectors = net.input.weight.detach().float().cpu()
        for name in word_similarity.available():
            score = word_similarity.word_similarity(vectors, self.words, name)
            self.log(f"val/{name}_covered", score.covered)
            if score.covered * len(word_similarity.judgements(name)) >= ENOUGH:
                self.log(f"val/{name}", score.value)
        if word_similarity.available():
            total = word_similarity.analogies(vectors, self.words)["total"]
            self.log("val/analogies_covered", total.covered)
            if total.covered * QUESTIONS >= ENOUGH:
                self.log("val/analogies", total.value)
        plain = [n for n, word in enumerate(self.words) if len(word) > 3 and word.isalpha()]
        if chosen := plain[:SHOWN]:
            show(self, "words", scatter(vectors[chosen], [self.words[n] for n in chosen]))

    def usage(self) -> dict[str, Any]:
        """Tell what the network is for: see `dlreview.usage`."""
        return {"task": "words"}

    def configure_optimizers(self) -> Any:
        """Make the optimizer and the schedule that the recipe names."""
        if self.update != "autograd":
            return torch.optim.SGD(self.net.parameters(), lr=self.rates[0])
        return with_schedule(self.optimizer(self.net.parameters()), self.lr_schedule)
