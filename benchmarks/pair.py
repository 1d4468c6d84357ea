"""One of our networks and the library's own, with the same weights, and the work to time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dlreview.reference import from_reference

Call = Callable[[nn.Module], Any]


@dataclass
class Pair:
    """Two networks that compute the same function.

    Args:
        theirs: the library's network, on the device of the benchmark, in training mode.
        inputs: the arguments of both calls.
        own_inputs: the arguments of ours, if ours takes them in another order.
        output: returns the tensor in the result of theirs.
        own_output: returns the tensor in the result of ours.
        loss: computes the loss of the train step from the output.
        samplers: by name, two functions that draw samples with our network and with theirs.
        works: the timed ones of "forward" and "train step".
    """

    theirs: nn.Module
    inputs: tuple[Tensor, ...]
    output: Callable[[Any], Tensor] = lambda output: output
    own_output: Callable[[Any], Tensor] = lambda output: output
    loss: Callable[[Tensor], Tensor] = lambda output: output.float().square().mean()
    samplers: dict[str, tuple[Call, Call]] = field(default_factory=dict)
    works: tuple[str, ...] = ("forward", "train step")
    own_inputs: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        self.ours = from_reference(self.theirs)
        self.device = self.inputs[0].device
        self.own_inputs = self.own_inputs or self.inputs

    def autocast(self) -> torch.autocast:
        """Compute in bfloat16 on a GPU and in float32 on a CPU, as in usual training."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def check(self) -> None:
        """Check that both give the same output, up to rounding.

        Raises:
            AssertionError: they do not.
        """
        with torch.no_grad(), self.autocast():
            a = self.own_output(self.ours(*self.own_inputs)).float()
            b = self.output(self.theirs(*self.inputs)).float()
        tolerance = 3e-2 if self.device.type == "cuda" else 1e-4
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * b.abs().max().item())

    def work(self, name: str, compiled: str | None) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Return the functions to time for ours and theirs.

        Args:
            name: "forward", "train step" or the name of a sampler.
            compiled: a mode of `torch.compile`, or None for eager.
        """
        nets = [copy.deepcopy(net) for net in (self.ours, self.theirs)]
        if name in self.samplers:
            draws = self.samplers[name]
            nets = [net.eval() for net in nets]
        if compiled is not None:
            nets = [torch.compile(net, mode=compiled) for net in nets]
        if name in self.samplers:
            return self._draw(draws[0], nets[0]), self._draw(draws[1], nets[1])
        make = self._forward if name == "forward" else self._train
        ours = make(nets[0], lambda net: self.own_output(net(*self.own_inputs)))
        theirs = make(nets[1], lambda net: self.output(net(*self.inputs)))
        return ours, theirs

    def _draw(self, draw: Call, net: nn.Module) -> Callable[[], Any]:
        def work() -> None:
            with self.autocast():
                draw(net)

        return work

    def _forward(self, net: nn.Module, call: Call) -> Callable[[], Any]:
        def work() -> None:
            with torch.no_grad(), self.autocast():
                call(net)

        return work

    def _train(self, net: nn.Module, call: Call) -> Callable[[], Any]:
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)

        def work() -> None:
            with self.autocast():
                loss = self.loss(call(net))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return work


@dataclass(frozen=True)
class Row:
    """A row of the table, with the functions that build its pair on a CPU and on a GPU.

    Args:
        name: name of the row, by which `--only` selects it.
        cpu: builds the pair on a CPU; None if it is not timed there.
        cuda: builds the pair on a GPU; None if it is not timed there.
        compiled: whether torch.compile can change anything.
    """

    name: str
    cpu: Callable[[], Pair] | None = None
    cuda: Callable[[], Pair] | None = None
    compiled: bool = True
