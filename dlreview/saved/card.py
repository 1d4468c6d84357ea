"""The model card: what a network is, how it was trained and measured, how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

LICENSE = "apache-2.0"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
WEIGHTS = {
    "averaged": "the exponential moving average of the training weights",
    "last": "those of the last training step",
}


def card(
    title: str,
    usage: Mapping[str, Any],
    loading: str,
    tag: str | None = None,
    library: str = "dlreview",
    license: str = LICENSE,
    picture: str | None = None,
) -> str:
    """Write the card, with the hub's metadata at its head.

    Args:
        title: class of the main network.
        usage: see `dlreview.usage`.
        loading: Markdown that says how to load this folder.
        tag: the hub's name of the task.
        library: the one that loads it.
        license: the hub's word for the licence.
        picture: file beside the card to show.
    """
    data = str(usage.get("data") or "")
    parts = [f"---\n{metadata(title, usage, tag, library, license)}\n---\n", f"# {title}\n"]
    trained = f"Trained on `{data}` with dlreview" if data else "Written with dlreview"
    weights = WEIGHTS.get(str(usage.get("weights")))
    parts.append(f"{trained}." + (f" The weights are {weights}." if weights else "") + "\n")
    if picture:
        parts.append(f"![samples]({picture})\n")
    parts.append(f"## How to load it\n\n{loading.strip()}\n")
    if metrics := _metrics(usage):
        rows = "".join(f"| {key} | {value:.4g} |\n" for key, value in sorted(metrics.items()))
        parts.append(f"## Measured\n\n| metric | value |\n|---|---|\n{rows}")
    if recipe := usage.get("recipe"):
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        parts.append(f"## Recipe\n\n```yaml\n{text}```\n")
    return "\n".join(parts)


def metadata(
    title: str, usage: Mapping[str, Any], tag: str | None, library: str, license: str
) -> str:
    """Write the hub's metadata in YAML: library, task, data set, licence, measured metrics."""
    from huggingface_hub import EvalResult, ModelCardData

    data = str(usage.get("data") or "")
    measured = {k: v for k, v in _metrics(usage).items() if k.startswith(("val/", "test/"))}
    results = [
        EvalResult(
            task_type=tag or "other",
            dataset_type=data,
            dataset_name=data,
            dataset_split=str(usage["split"]) if usage.get("split") else None,
            metric_type=key.partition("/")[2],
            metric_name=key,
            metric_value=value,
        )
        for key, value in sorted(measured.items())
    ]
    found = ModelCardData(
        library_name=library,
        license=license,
        pipeline_tag=tag,
        tags=["dlreview", title],
        datasets=[data] if HUB_NAME.fullmatch(data) else None,
        model_name=title,
        eval_results=results if data and results else None,
    )
    return found.to_yaml().strip()


def _metrics(usage: Mapping[str, Any]) -> dict[str, float]:
    metrics = usage.get("metrics")
    if not isinstance(metrics, Mapping):
        return {}
    return {str(k): float(v) for k, v in metrics.items() if isinstance(v, int | float)}


def how_to_load(
    classes: Mapping[str, str],
    where: str,
    command: str | None = None,
    run: str | None = None,
    formats: Sequence[str] = (),
) -> str:
    """Say how to load each network of a folder of dlreview, and how to take it elsewhere.

    Args:
        classes: name of each network's class by the network's name, the main network first.
        where: a folder, or `owner/name`.
        command: calls the main network from the command line.
        run: what to export; by default `where`.
        formats: libraries that have a class for the main network.
    """
    lines = ["```python", "import dlreview", ""]
    for number, (name, title) in enumerate(classes.items()):
        call = f'{name} = dlreview.load("{where}"' + (f', "{name}")' if number else ")")
        role = "the main network" if number == 0 else "network"
        lines.append(call + (f"  # {role} {name!r}: {title}" if len(classes) > 1 else ""))
    lines.append("```")
    if command:
        lines += ["", "From the command line:", "", "```", command, "```"]
    if formats:
        export = f"python -m dlreview.export {run or where} DIR --format"
        lines += ["", "For other libraries:", "", "```", *(f"{export} {f}" for f in formats), "```"]
    return "\n".join(lines) + "\n"
