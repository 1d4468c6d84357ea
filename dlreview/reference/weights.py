"""Tables of parameter names, with which weights are copied to our networks and back.

A rule pairs our key with theirs, `("embed.weight", "patch_embed.proj.weight")`. In a key `{i}`, or
any other single letter, stands for an index and `{leaf}` for the last word (`weight`, `bias`,
`running_mean`). If several of our tensors are one of theirs, the rule has a tuple of our keys; if
the layouts differ, its third field is an invertible `Op`. Every key of both sides must belong to
exactly one rule.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

Keys = str | tuple[str, ...]


@dataclass(frozen=True)
class Op:
    """Turn their tensors into ours (`forward`) and back (`inverse`); both return one or a tuple."""

    forward: Callable[..., Any]
    inverse: Callable[..., Any]

    def then(self, after: "Op") -> "Op":
        """Apply this op to their tensor and `after` to the result."""
        return Op(
            lambda theirs: after.forward(self.forward(theirs)),
            lambda *ours: self.inverse(after.inverse(*ours)),
        )

    @property
    def flipped(self) -> "Op":
        """Exchange the two directions, so that a split becomes a merge."""
        return Op(self.inverse, self.forward)


Rule = tuple[Keys, Keys] | tuple[Keys, Keys, Op]


def split(parts: int, dim: int = 0) -> Op:
    """Split their tensor into that many equal tensors of ours."""
    return Op(lambda theirs: theirs.chunk(parts, dim), lambda *ours: torch.cat(ours, dim))


SAME = Op(lambda theirs: theirs, lambda ours: ours)
SPLIT = split(3)  # a fused query, key, value projection
TRANSPOSE = Op(lambda theirs: theirs.mT, lambda ours: ours.mT)  # their Linear is stored (in, out)
CONV_AS_LINEAR = Op(  # their 1x1 convolution is our Linear
    lambda theirs: rearrange(theirs, "o i 1 1 -> o i"),
    lambda ours: rearrange(ours, "o i -> o i 1 1"),
)


@dataclass(frozen=True)
class Pair:
    """One rule with its indices filled in."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    op: Op


def pair_up(keys: Iterable[str], table: list[Rule], side: str) -> list[Pair]:
    """Find the pairs of a table for `keys`, which are all keys of one side: "ours" or "theirs".

    Raises:
        ValueError: a key matches no rule or two, or only some keys of a rule are there.
    """
    keys = list(keys)
    pairs, matched = [], {"ours": set[str](), "theirs": set[str]()}
    for ours, theirs, *rest in table:
        templates = {"ours": _as_tuple(ours), "theirs": _as_tuple(theirs)}
        pattern = _pattern(templates[side][0])
        for found in filter(None, map(pattern.fullmatch, keys)):
            names = {k: tuple(t.format(**found.groupdict()) for t in templates[k]) for k in matched}
            for one_side, group in names.items():
                if twice := matched[one_side].intersection(group):
                    raise ValueError(f"{one_side[:-1]} key {min(twice)!r} matches two rules")
                matched[one_side].update(group)
            if missing := set(names[side]).difference(keys):
                raise ValueError(f"{side} lacks {min(missing)!r}, which goes with {found[0]!r}")
            pairs.append(Pair(**names, op=rest[0] if rest else SAME))
    if left := set(keys).difference(matched[side]):
        raise ValueError(f"no rule matches {min(left)!r} of {side}")
    return pairs


def to_ours(state: dict[str, Tensor], table: list[Rule]) -> dict[str, Tensor]:
    """Rename and reshape a state dict of theirs into one of ours (views where possible).

    Raises:
        ValueError: see `pair_up`.
    """
    renamed: dict[str, Tensor] = {}
    for pair in pair_up(state, table, "theirs"):
        tensors = pair.op.forward(*(state[key] for key in pair.theirs))
        renamed.update(zip(pair.ours, _as_tuple(tensors), strict=True))
    return renamed


def to_theirs(state: dict[str, Tensor], table: list[Rule]) -> dict[str, Tensor]:
    """Invert `to_ours`.

    Raises:
        ValueError: see `pair_up`.
    """
    renamed: dict[str, Tensor] = {}
    for pair in pair_up(state, table, "ours"):
        tensors = pair.op.inverse(*(state[key] for key in pair.ours))
        renamed.update(zip(pair.theirs, _as_tuple(tensors), strict=True))
    return renamed


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module, table: list[Rule], target_is: str) -> None:
    """Copy weights, dtypes, device, gradient flags and mode of `source` into `target`.

    `target_is` is "ours" or "theirs".

    Raises:
        ValueError: the table does not cover both state dicts, or two shapes differ.
    """
    state = source.state_dict(keep_vars=True)
    weights = (to_ours if target_is == "ours" else to_theirs)(state, table)
    tensors = target.state_dict(keep_vars=True)
    if difference := set(weights).symmetric_difference(tensors):
        raise ValueError(f"only one of {target_is} and the table has {min(difference)!r}")
    _convert_buffers(target, list(state.values()))
    for name, tensor in tensors.items():
        if tensor.shape != weights[name].shape:
            shapes = tuple(tensor.shape), tuple(weights[name].shape)
            raise ValueError(f"{name!r} must have shape {shapes[0]}, got {shapes[1]}")
        # .data keeps the Parameter object, and so tied weights; empty_like keeps the strides.
        value = weights[name].detach()
        tensor.data = torch.empty_like(tensor, dtype=value.dtype, device=value.device).copy_(value)
    for pair in pair_up(tensors, table, target_is):
        from_, to = (pair.theirs, pair.ours) if target_is == "ours" else (pair.ours, pair.theirs)
        for name in to:
            if isinstance(tensors[name], nn.Parameter):
                tensors[name].requires_grad_(any(state[key].requires_grad for key in from_))
    target.train(source.training)


def _convert_buffers(target: nn.Module, state: list[Tensor]) -> None:
    """Move unsaved buffers to the device of `state`, and to its float dtype if it has only one."""
    floats = [tensor for tensor in state if tensor.is_floating_point()]
    one_dtype = len({tensor.dtype for tensor in floats}) == 1
    saved = target.state_dict()
    for name, buffer in target.named_buffers():
        if floats and name not in saved:
            convert = buffer.is_floating_point() and one_dtype
            buffer.data = buffer.to(floats[0].device, floats[0].dtype if convert else buffer.dtype)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _pattern(template: str) -> re.Pattern[str]:
    """Compile `"blocks.{i}.{leaf}"`; equal placeholders match equal text."""
    seen: set[str] = set()

    def group(found: re.Match[str]) -> str:
        name = found[1]
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return rf"(?P<{name}>\d+)" if len(name) == 1 else rf"(?P<{name}>[a-z_]+)"

    return re.compile(re.sub(r"\\{(\w+)\\}", group, re.escape(template)))
