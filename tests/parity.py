"""Equality with a library: outputs, gradients and 20 steps in float64 with scrambled weights."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dlreview.reference import find_map, from_reference, to_reference
from dlreview.reference.weights import Rule, to_ours

Module = TypeVar("Module", bound=nn.Module)
Output = Tensor | tuple[Tensor, ...]
TOLERANCE = {"atol": 1e-10, "rtol": 1e-10}


@torch.no_grad()
def scramble(module: Module, seed: int = 0, spread: float = 0.3) -> Module:
    """Put a module in float64 and eval mode and fill it from N(0, spread), except integers.

    The default initialisation hides mistakes: zero biases, unit gains, heads of zeros.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.double().eval().state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            tensor.normal_(0, spread, generator=generator)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return module


def assert_parity(
    ours: nn.Module,
    theirs: nn.Module,
    call_ours: Callable[[Any], Output],
    call_theirs: Callable[[Any], Output],
    table: list[Rule] | None = None,
    *,
    steps: int = 20,
    tolerance: dict[str, float] = TOLERANCE,
) -> None:
    """Compare outputs, the gradients of all parameters and the weights after some AdamW steps.

    Both modules must be in the same mode; they are copied, not changed. Without a `table`, the one
    that `dlreview.reference` has for the class of `theirs`.
    """
    if table is None:
        table = find_map(theirs).table(ours)
    ours, theirs = copy.deepcopy(ours), copy.deepcopy(theirs)
    mine, other = _as_tuple(call_ours(ours)), _as_tuple(call_theirs(theirs))
    assert len(mine) == len(other)
    for one, two in zip(mine, other, strict=True):
        torch.testing.assert_close(one, two, **tolerance)
        assert one.abs().max() > 1e-3, "an output near zero proves nothing"

    # The same random cotangents on both sides; scaled so that gradients are of order 1.
    generator = torch.Generator().manual_seed(1)
    cotangents = [
        torch.randn(x.shape, dtype=x.dtype, generator=generator) / x.numel() ** 0.5 for x in other
    ]

    def loss(outputs: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([(x * c).sum() for x, c in zip(outputs, cotangents, strict=True)]).sum()

    loss(mine).backward()
    loss(other).backward()
    gradients = to_ours(_gradients(theirs), table)
    for name, gradient in _gradients(ours).items():
        torch.testing.assert_close(gradient, gradients[name], **tolerance, msg=_at(name))

    for module, call in ((ours, call_ours), (theirs, call_theirs)):
        parameters = [p for p in module.parameters() if p.requires_grad]
        # With a small eps, gradients that are only rounding errors would make steps of full size.
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, eps=1e-4)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(_as_tuple(call(module))).backward()
            optimizer.step()
    final = to_ours(theirs.state_dict(), table)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, final[name], atol=1e-8, rtol=1e-8, msg=_at(name))


def assert_round_trip(theirs: nn.Module, library: str) -> nn.Module:
    """Check `to_reference(from_reference(theirs))` bit for bit; return ours."""
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    ours = from_reference(theirs)
    back = to_reference(ours, library)
    assert type(back) is type(theirs)
    assert back.training == theirs.training
    state, again = theirs.state_dict(keep_vars=True), back.state_dict(keep_vars=True)
    assert sorted(again) == sorted(state)
    for name, tensor in state.items():
        for other in (before[name], again[name]):
            assert other.dtype == tensor.dtype and other.shape == tensor.shape, name
            assert torch.equal(other, tensor), name
        assert again[name].requires_grad == tensor.requires_grad, name
    shared = {x.data_ptr() for x in state.values() if x.numel()}
    for module in (ours, back):
        held = {x.data_ptr() for x in module.state_dict().values() if x.numel()}
        assert not shared & held, "storage is shared"
        shared |= held
    return ours


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    """Collect gradients under every key of the state dict; zeros where there is none."""
    return {
        name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        for name, tensor in module.state_dict(keep_vars=True).items()
    }


def _at(name: str) -> Callable[[str], str]:
    return lambda message: f"{name}: {message}"


def _as_tuple(value: Output) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
