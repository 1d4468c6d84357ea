"""Rebuild the parity ledger: compare our networks with each reference class that is installed.

    python -m dlreview.parity [--only STEM] [--json FILE] [--write FILE]

  --only STEM   rows of one file of dlreview/nn or dlreview/reference: vit, lstm, ...
  --json FILE   write the rows as JSON
  --write FILE  put the table between the markers of a Markdown file, README.md say

Both have the same weights, in float64, with every parameter and buffer drawn from N(0, 0.3). A
difference is the largest one, relative to the largest value if that is above 1: of outputs, of the
gradients of all parameters, and of the parameters after 20 AdamW steps. Speed is the time of theirs
divided by the time of ours, for a forward and a backward pass in float32 on one thread of this
machine, measured in turn: above 1 ours is faster.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlreview.messages import UserError, nearest
from dlreview.running.command import Flag, parse, run

if TYPE_CHECKING:
    from torch import Tensor, nn

FLAGS = {"--only": Flag(str), "--json": Flag(str), "--write": Flag(str)}
USAGE = "usage: python -m dlreview.parity [--only STEM] [--json FILE]"
BOUNDS = {"outputs": 1e-10, "gradients": 1e-10, "steps_20": 1e-8}
BEGIN, END = "<!-- parity -->", "<!-- /parity -->"
SECONDS = 1.5  # spent on the timing of a row
HEAD = "| ours | reference | parameters | outputs | gradients | after 20 steps | speed |"


@dataclass(frozen=True)
class Row:
    """One row of the ledger."""

    stem: str
    ours: str
    reference: str
    library: str
    version: str
    parameters: int
    outputs: float
    gradients: float
    steps_20: float
    speed: float | None

    @property
    def holds(self) -> bool:
        """Whether every difference is within its bound."""
        return all(getattr(self, name) <= bound for name, bound in BOUNDS.items())

    def line(self) -> str:
        """Write the row in Markdown."""
        numbers = " | ".join(f"{getattr(self, name):.0e}" for name in BOUNDS)
        speed = "" if self.speed is None else f"{self.speed:.2f}"
        reference = f"{self.library} {self.version} `{self.reference}`"
        return f"| `{self.ours}` | {reference} | {self.parameters:,} | {numbers} | {speed} |"


def version_of(library: str) -> str:
    """Return the installed version of a library, without its build tag."""
    return importlib.metadata.version(library).partition("+")[0]


def scramble(net: nn.Module) -> nn.Module:
    """Put a network in float64 and eval mode and fill it from N(0, 0.3): zeros hide mistakes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in net.double().eval().state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                tensor.normal_(0, 0.3, generator=generator)
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)
    return net


def difference(one: Tensor, two: Tensor) -> float:
    """Return the largest difference, relative to the largest value if that is above 1."""
    if one.shape != two.shape:
        return float("inf")
    if not two.numel():
        return 0.0
    return float((one - two).abs().max() / two.abs().max().clamp(min=1))


def first_of(inputs: tuple[Any, ...], batch: int = 2) -> tuple[Any, ...]:
    """Take the first samples: equality needs fewer of them than the timing."""
    rows = len(inputs[0])
    return tuple(x[:batch] if getattr(x, "ndim", 0) and len(x) == rows else x for x in inputs)


def outputs_of(call: Callable[..., Any], net: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Call a network; return its outputs."""
    outputs = call(net, *inputs)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def weights_for(outputs: list[Tensor]) -> list[Tensor]:
    """Draw random weights of the outputs, with which the loss is of order 1."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(x.shape, generator=generator, dtype=x.dtype) / x.numel() ** 0.5 for x in outputs
    ]


def loss_of(outputs: list[Tensor], weights: list[Tensor] | None = None) -> Tensor:
    """Return the weighted sum of all outputs; by default the weights are `weights_for` them."""
    import torch

    pairs = zip(outputs, weights or weights_for(outputs), strict=True)
    return torch.stack([(x * w).sum() for x, w in pairs]).sum()


def gradients_of(net: nn.Module) -> dict[str, Tensor]:
    """Return the gradient of each entry of the state dict; zeros where there is none."""
    import torch

    state = net.state_dict(keep_vars=True)
    return {k: torch.zeros_like(x) if x.grad is None else x.grad for k, x in state.items()}


def train(net: nn.Module, call: Callable[..., Any], inputs: tuple[Any, ...], steps: int) -> None:
    """Take AdamW steps; eps is large, so that rounding errors of zero gradients do not matter."""
    import torch

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, eps=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(outputs_of(call, net, inputs)).backward()
        optimizer.step()


def measure(stem: str, example: Any, timed: bool = True) -> Row:
    """Make one row of the ledger: scramble theirs, build ours from it, compare both."""
    import torch

    from dlreview.reference import find_map, from_reference
    from dlreview.reference.weights import to_ours

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs, inputs = scramble(example.theirs()), example.inputs()
    ours, found = from_reference(theirs), find_map(theirs)
    table, few = found.table(ours), first_of(inputs)
    mine = outputs_of(example.call_ours, ours, few)
    other = outputs_of(example.call_theirs, theirs, few)
    pairs = list(zip(mine, other, strict=True))
    loss_of(mine).backward()
    loss_of(other).backward()
    wanted = to_ours(gradients_of(theirs), table)
    gradients = max(difference(g, wanted[k]) for k, g in gradients_of(ours).items())
    copies = copy.deepcopy(ours), copy.deepcopy(theirs)
    train(copies[0], example.call_ours, few, 20)
    train(copies[1], example.call_theirs, few, 20)
    final = to_ours(copies[1].state_dict(), table)
    return Row(
        stem=stem,
        ours=f"{type(ours).__module__.removeprefix('dlreview.')}.{type(ours).__name__}",
        reference=type(theirs).__name__,
        library=found.library,
        version=version_of(found.library),
        parameters=sum(p.numel() for p in ours.parameters()),
        outputs=max(difference(one.detach(), two.detach()) for one, two in pairs),
        gradients=gradients,
        steps_20=max(difference(x, final[k]) for k, x in copies[0].state_dict().items()),
        speed=speed_of(ours, theirs, example, inputs) if timed else None,
    )


def speed_of(ours: nn.Module, theirs: nn.Module, example: Any, inputs: Any) -> float:
    """Time a forward and a backward pass of both in turn; return the median of theirs / ours."""
    inputs = tuple(x.float() if x.is_floating_point() else x for x in inputs)
    sides = [(ours.float(), example.call_ours), (theirs.float(), example.call_theirs)]
    weights = weights_for(outputs_of(example.call_ours, ours, inputs))
    ratios: list[float] = []
    start = time.perf_counter()
    while len(ratios) < 3 or (time.perf_counter() - start < SECONDS and len(ratios) < 100):
        took = []
        for net, call in sides:
            net.zero_grad()
            begin = time.perf_counter()
            loss_of(outputs_of(call, net, inputs), weights).backward()
            took.append(time.perf_counter() - begin)
        ratios.append(took[1] / took[0])
    return statistics.median(ratios[1:])


def rows(only: str | None = None, timed: bool = True) -> Iterator[Row]:
    """Measure the rows of the file `only`, or all rows, one after the other.

    Raises:
        UserError: there is no such file.
    """
    from dlreview.reference import all_examples, all_maps

    examples = list(all_examples())
    if only is not None:
        stems = {stem for stem, _ in examples}
        # The maps of a file of networks may be in several files whose names contain its name.
        network_stems = {m.ours.split(".")[2] for m in all_maps()}
        if only not in stems | network_stems:
            known = nearest(only, stems | network_stems)
            raise UserError("--only", f"{only!r} is unknown", known)
        examples = [(stem, e) for stem, e in examples if only in stem or stem in only]
    for stem, example in examples:
        yield measure(stem, example, timed)


def table_of(ledger: list[Row]) -> str:
    """Write the ledger in Markdown."""
    rule = "|---|---|--:|--:|--:|--:|--:|"
    return "\n".join([HEAD, rule, *(row.line() for row in ledger)])


def rewrite(file: Path, table: str) -> None:
    """Replace the text between the markers of `file` by the table.

    Raises:
        UserError: there are no markers.
    """
    text = file.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError("--write", f"{file} has no {BEGIN} ... {END}")
    file.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


def body(argv: list[str]) -> int:
    """Measure, print and write the rows; return 1 if a difference is beyond its bound.

    Raises:
        UserError: a mistake in the command.
    """
    import torch

    _, options = parse(argv, FLAGS, USAGE, (0, 0))
    torch.set_num_threads(1)
    print(f"{HEAD}\n|---|---|--:|--:|--:|--:|--:|")
    ledger = []
    for row in rows(options["only"]):
        print(row.line(), flush=True)
        ledger.append(row)
    if options["json"]:
        text = json.dumps([asdict(row) for row in ledger], indent=2)
        Path(options["json"]).write_text(text + "\n", encoding="utf-8")
    if options["write"]:
        rewrite(Path(options["write"]), table_of(ledger))
    failed = [row.ours for row in ledger if not row.holds]
    if failed:
        print(f"dlreview.parity: beyond the bounds: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    return run("parity", __doc__ or "", body, argv, bare=True)


if __name__ == "__main__":
    sys.exit(main())
