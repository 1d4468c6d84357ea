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
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dlreview.learners.learner import TRAIN, Batch, Learner
from dlreview.learners.pictures import show
from dlreview.learners.rates import Rate
from dlreview.learners.windows import Examples, draw_negatives, examples, keep_probability
from dlreview.messages import check_at_least
from dlreview.metrics import word_similarity
from dlreview.plots.words import scatter
from dlreview.randomness import RowRandom, hash_seed
from dlreview.samplers.alias import alias_table

AT_ONCE = 4096  # rows that are scored for all words at a time
SHOWN = 60  # words in the picture


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


class WordPrediction(Learner):
    """Train word vectors, and measure them by human judgements of similarity.

    `val/wordsim353` is Spearman's correlation with people over the pairs of WordSim-353 whose words
    are both in the vocabulary, `val/wordsim353_covered` their share; likewise SimLex-999.
    `val/analogies` is the share of "a is to b as c is to ?" that is answered rightly. Fewer than 30
    items say nothing, and are left out.

    Batches are sentences: {"text", "bounds", "row"} of `dlreview.data.corpus.Corpus`.

    Args:
        net: `dlreview.nn.word2vec.Word2Vec`.
        method: "skipgram" or "cbow".
        objective: "negative_sampling" or "full_softmax", which needs update "autograd".
        update: "autograd" takes one step of `optimizer` a batch, on any device and any number of
            processes. "sequential" takes a step of plain SGD on every single example, in the
            compiled loop of `word2vec_loop` on one CPU core, and repeats bit for bit. "hogwild" has
            `threads` of them write into the same vectors without locks; no two runs are the same.
            It wants large batches (8,192 sentences of Brown).
        window: largest distance of context words; each word draws its own in 1..window.
        negatives: wrong words drawn for each right one, by unigram counts^0.75.
        sample: share of the text above which a word is frequent, and dropped more often the more
            frequent it is; 0 drops none.
        threads: of "hogwild"; null for one a core.
        optimizer: makes the optimizer; the compiled loop needs torch.optim.SGD and reads its rate.
            CBOW divides each step by the words of the context, as its gradient says, and needs
            about six times skip-gram's rate.
        lr_schedule: how the rate changes, see `Learner`.

    Raises:
        ValueError: an argument is out of range, or the compiled loop is asked for an objective, an
            optimizer, processes or a device that it has not.
    """

    reads = ("text", "bounds", "row")
    keep: Tensor
    threshold: Tensor
    other: Tensor

    def __init__(
        self,
        net: nn.Module,
        method: Literal["skipgram", "cbow"] = "skipgram",
        objective: Literal["negative_sampling", "full_softmax"] = "negative_sampling",
        update: Literal["sequential", "hogwild", "autograd"] = "autograd",
        window: int = 5,
        negatives: int = 5,
        sample: float = 1e-3,
        threads: int | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_schedule: Rate | LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(optimizer, lr_schedule)
        for name, size in {"window": window, "negatives": negatives, "threads": threads}.items():
            if size is not None and not 1 <= size <= 1000:
                raise ValueError(f"{name} must be in 1..1000, got {size}")
        check_at_least(0, sample=sample)
        if objective == "full_softmax" and update != "autograd":
            raise ValueError(f"objective 'full_softmax' needs update 'autograd', got {update!r}")
        self.net, self.skip_gram = net, method == "skipgram"
        self.objective, self.update = objective, update
        self.window, self.negatives, self.sample = window, negatives, sample
        self.threads = (threads or os.cpu_count() or 1) if update == "hogwild" else 1
        self.automatic_optimization = update == "autograd"

    def accept(self, data: Any, trainer: Any) -> None:
        """Refuse another kind of network, and devices that the compiled loop has not."""
        if not (hasattr(self.net, "hidden") and hasattr(self.net, "scores")):
            raise ValueError(f"net: {type(self.net).__name__} is no Word2Vec network")
        hint = "set update to autograd"
        if self.update != "autograd" and trainer.world_size > 1:
            raise ValueError(f"update {self.update!r} runs in one process\n{hint}")
        for name, plain in {"accumulate_grad_batches": 1, "gradient_clip_val": None}.items():
            if self.update != "autograd" and (value := getattr(trainer, name, plain)) != plain:
                raise ValueError(f"update {self.update!r} has no {name}, got {value}\n{hint}")
        if self.update != "autograd" and trainer.strategy.root_device.type != "cpu":
            raise ValueError(f"update {self.update!r} runs on the CPU\n{hint}")
        self.count_words(data.vocabulary)
        self.check_examples(data)

    def setup(self, stage: str) -> None:
        """Look at the data that the trainer has."""
        super().setup(stage)
        self.accept(self.trainer.datamodule, self.trainer)  # type: ignore[attr-defined]

    def count_words(self, vocabulary: Any) -> None:
        """Derive from the counts of the words how often each is kept, and drawn as a negative."""
        self.words = vocabulary.words
        counts = torch.tensor(vocabulary.counts, dtype=torch.float64)
        self.alias = alias_table(counts.pow(0.75).numpy())
        threshold, other = (torch.from_numpy(x.astype("int64")) for x in self.alias)
        keep = keep_probability(counts, self.sample).float()
        for name, table in {"keep": keep, "threshold": threshold, "other": other}.items():
            self.register_buffer(name, table, persistent=False)

    def check_examples(self, data: Any) -> None:
        """Refuse a text of which `sample` drops so many words that most steps have no example.

        Words are kept independently, so that of a sentence with the probabilities p_i at most
        (sum_i p_i)^2 - sum_i p_i^2 pairs are expected.

        Raises:
            ValueError: fewer pairs than steps are expected in an epoch.
        """
        rows = data.train_set
        keep = self.keep.double()[rows.text.long()]
        sentence = torch.repeat_interleave(torch.arange(len(rows)), rows.length)
        kept = torch.zeros(len(rows), dtype=torch.float64).index_add(0, sentence, keep)
        pairs, steps = float(kept.square().sum() - keep.square().sum()), len(rows) / data.batch_size
        if pairs < steps:
            raise ValueError(
                f"sample {self.sample} drops nearly all words: {len(keep)} of them leave "
                f"{pairs:.2g} examples in an epoch, fewer than its steps\n"
                "set model.sample to 0, or data.min_count to 1"
            )

    def on_fit_start(self) -> None:
        """Leave the cores to "hogwild": torch's own threads wait by spinning."""
        self.torch_threads = torch.get_num_threads()
        if self.update == "hogwild":
            torch.set_num_threads(1)

    def on_fit_end(self) -> None:
        """Give torch its threads back."""
        torch.set_num_threads(self.torch_threads)

    def loss(self, batch: Batch, random: RowRandom) -> Float[Tensor, " examples"]:
        """Measure the objective of each example that a batch teaches."""
        net: Any = self.net
        how: dict[str, Any] = {"window": self.window, "skip_gram": self.skip_gram}
        place = batch["text"], batch["bounds"], batch["row"]
        part = examples(*place, self.keep, **how, key=random.seed)
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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Return the mean loss of the global batch's examples, or take a step on each of them."""
        if self.update == "autograd":
            return super().training_step(batch, batch_idx)
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        rate = self.rate()
        optimizer.step()  # type: ignore[union-attr]  # without gradients it only counts the step
        if schedule is not None:
            schedule.step()  # type: ignore[union-attr]
        seed = self.random(batch, TRAIN, self.current_epoch, batch_idx).seed
        self.log("train/loss", self.compiled_pass(batch, rate, seed), prog_bar=True)
        self.log("train/lr", rate)
        return None

    def compiled_pass(self, batch: Batch, rate: float, seed: int) -> float:
        """Take a step of SGD on each example, from `rate` to the present one; return their loss."""
        from dlreview.learners.word2vec_loop import pass_over

        loss, count = pass_over(
            self.net,
            batch,
            self.keep,
            self.alias,
            window=self.window,
            negatives=self.negatives,
            skip_gram=self.skip_gram,
            rates=(rate, self.rate()),
            seeds=[hash_seed(seed, thread) for thread in range(self.threads)],
        )
        self.examples = (self.examples or 0) + count
        return loss

    def on_validation_epoch_end(self) -> None:
        """Compare cosines with human judgements, and draw frequent words."""
        net: Any = self.net
        vectors = net.input.weight.detach().float().cpu()[: len(self.words)]
        for name, value in word_similarity.measure(vectors, self.words).items():
            self.log(f"val/{name}", value)
        plain = [n for n, word in enumerate(self.words) if len(word) > 3 and word.isalpha()]
        if chosen := plain[:SHOWN]:
            show(self, "words", scatter(vectors[chosen], [self.words[n] for n in chosen]))

    def usage(self) -> dict[str, Any]:
        """Tell what the network is for: see `dlreview.usage`."""
        return {"task": "words"}

    def configure_optimizers(self) -> Any:
        """Make the optimizer; the compiled loop takes plain SGD steps and nothing else."""
        made = super().configure_optimizers()
        optimizer = made["optimizer"] if isinstance(made, dict) else made
        plain = isinstance(optimizer, torch.optim.SGD) and not optimizer.defaults["momentum"]
        if self.update != "autograd" and not (plain and not optimizer.defaults["weight_decay"]):
            raise ValueError(
                f"update {self.update!r} takes steps of plain SGD: optimizer must be "
                f"torch.optim.SGD, got {type(optimizer).__name__} {optimizer.defaults}"
            )
        return made
