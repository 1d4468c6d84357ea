"""Language modelling (rows 6-16, 19): a network reads a text and says which word comes next.

A recurrent network is trained by truncated backpropagation through time (Mikolov et al. 2010): its
state goes on from one batch to the next, as the text does, while gradients stay within a batch. A
decoder (Radford et al. 2019) sees a window at once, and nothing before it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from dlreview.learners.cross_entropy import token_losses
from dlreview.learners.learner import TRAIN, Batch, Learner
from dlreview.learners.pictures import show
from dlreview.learners.rates import Rate, parameter_groups
from dlreview.learners.sharding import shard
from dlreview.metrics.gradient_reach import gradient_norms, reach
from dlreview.plots.curves import curves
from dlreview.randomness import RowRandom

State = Any  # a tensor, or a tuple of them: (layers, batch, width)


def next_word_loss(
    logits: Float[Tensor, "*batch vocabulary"], word: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """-log p(w_{i+1} | w_1 ... w_i) in nats, p = softmax(y_i)."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    rows = rearrange(logits, "... vocabulary -> (...) vocabulary").to(wide)
    losses = F.cross_entropy(rows, word.flatten(), reduction="none")
    return losses.view(word.shape)


def map_state(change: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply `change` to the tensors of a state."""
    if state is None:
        return None
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


class LanguageModel(Learner):
    """Train a network to predict the next word of a running text.

    Batches are windows {"ids", "first"} of `dlreview.data.stream.Stream`; a word is a token of its
    tokenizer. `val/perplexity` is exp(`val/loss`), the loss in nats per word;
    `val/loss_per_character` compares networks whose words differ. For a recurrent network,
    `val/gradient_reach` says how many steps before the last one the gradient of the last step's
    loss falls below a hundredth; the picture shows all of them, and `gradient_norms.csv` beside it
    has the numbers.

    Args:
        net: `dlreview.nn.recurrent_language_model.RecurrentLanguageModel`, or a decoder without a
            state, `dlreview.nn.gpt.GPT`.
        optimizer: makes the optimizer from the parameters; weights of norms and biases of a decoder
            do not decay.
        lr_schedule: how the rate changes, see `Learner`.
        compile: see `Learner`.
    """

    reads = ("ids", "first")

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_schedule: Rate | LRSchedulerCallable | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__(optimizer, lr_schedule, compile)
        self.net = net
        self.has_state = not hasattr(net, "start")  # a decoder starts a cache instead
        self.state: State = None
        self.val_state: State = None
        self.probe: Tensor | None = None

    def configure_model(self) -> None:
        """Share the weights out over processes where the trainer's strategy is to do it."""
        if self.device_mesh is not None:
            shard(self.net, self.device_mesh["data_parallel"])

    def parameter_groups(self) -> Any:
        """Let all weights of a recurrent network decay, of a decoder those of matrices only."""
        return parameter_groups(self.net, by_layer=False, decay_vectors=self.has_state)

    def read(self, batch: Batch, state: State) -> tuple[Float[Tensor, "batch time"], State]:
        """Return the loss of each word of a window, and the state after it."""
        ids = batch["ids"]
        if not self.has_state:
            losses = partial(token_losses, targets=ids[:, 1:])
            return self.net(ids[:, :-1], score=losses), None
        state = None if batch["first"] else map_state(lambda s: s.to(self.device), state)
        logits, state = self.net(ids[:, :-1], state)
        return next_word_loss(logits, ids[:, 1:]), map_state(Tensor.detach, state)

    def loss(self, batch: Batch, random: RowRandom) -> Float[Tensor, " words"]:
        """Return the loss of each word of a window that nothing comes before."""
        return self.read(batch, None)[0].flatten()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of the words, and keep the state for the next window."""
        self.random(batch, TRAIN, self.current_epoch, batch_idx)
        losses, self.state = self.read(batch, self.state)
        loss = self.mean(losses.flatten())
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        self.log("train/lr", self.rate())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the loss of the test split, the state running through it."""
        losses, self.val_state = self.read(batch, self.val_state)
        self.val_loss.update(losses)
        if batch_idx == 0:
            self.probe = batch["ids"]

    def on_validation_epoch_end(self) -> None:
        """Log the perplexity and, of a recurrent network, how far back gradients go."""
        loss = self.val_loss.compute()
        self.val_loss.reset()
        self.log("val/loss", loss, prog_bar=True)
        self.log("val/perplexity", loss.exp())
        data: Any = getattr(self.trainer, "datamodule", None)
        if length := getattr(data, "characters_per_token", None):
            self.log("val/loss_per_character", loss / length)
        if self.has_state and self.probe is not None and self.trainer.is_global_zero:
            self.measure_reach(self.probe)

    def measure_reach(self, probe: Int[Tensor, "batch time"]) -> None:
        """Measure and draw how far back the gradient of the last word's loss goes."""
        net: Any = self.net
        # cuDNN differentiates recurrent networks in training mode only, where dropout would act.
        with torch.inference_mode(False), torch.backends.cudnn.flags(enabled=False):
            ids, last = probe[:, :-1].clone(), probe[:, -1].clone()
            norms = gradient_norms(
                lambda x: next_word_loss(net.read(x)[0][:, -1], last), net.embedding(ids)
            )
        self.log("val/gradient_reach", float(reach(norms)), rank_zero_only=True)
        name = type(net.core).__name__
        show(self, "gradient_norms", curves({name: norms}, "steps back", "gradient norm"))
        lines = [f"{k},{norm:.9g}" for k, norm in enumerate(norms.tolist())]
        final = Path(self.trainer.default_root_dir) / "gradient_norms.csv"
        staged = final.with_name(f".{final.name}")
        staged.write_text("\n".join(["steps_back,gradient_norm", *lines, ""]), encoding="utf-8")
        staged.replace(final)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of all lanes, those of other processes too."""
        state = self.state
        if state is not None and self.trainer.world_size > 1:
            # process layers batch width -> layers (process batch) width
            state = map_state(lambda s: self.all_gather(s).movedim(0, 1).flatten(1, 2), state)  # type: ignore[union-attr]
        checkpoint["recurrent_state"] = map_state(Tensor.cpu, state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take this process's lanes."""
        super().on_load_checkpoint(checkpoint)
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        state = checkpoint["recurrent_state"]
        self.state = map_state(lambda s: s.chunk(processes, dim=1)[rank].contiguous(), state)

    def usage(self) -> dict[str, Any]:
        """Tell what the network is for: see `dlreview.usage`."""
        return {"task": "text_generation"}
