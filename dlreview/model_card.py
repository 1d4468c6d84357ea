"""The model card: what a network is, how it was trained and measured, how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from dlreview.messages import UserError
from dlreview.usage import task_of

LICENSE = "apache-2.0"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
WEIGHTS = {
    "averaged": "the exponential moving average of the training weights",
    "last": "those of the last training step",
}


def card(
    name: str,
    usage: Mapping[str, Any],
    loading: str,
    library: str = "dlreview",
    license: str = LICENSE,
    picture: str | None = None,
) -> str:
    """Write the card, with the hub's metadata at its head.

    Args:
        name: of the network's class.
        usage: see `dlreview.usage`.
        loading: Markdown that tells how to load this folder.
        library: the one that loads it.
        license: the hub's word for the licence.
        picture: file beside the card to show.
    """
    data = str(usage.get("data") or "")
    parts = [f"---\n{metadata(name, usage, library, license)}\n---\n", f"# {name}\n"]
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


def metadata(name: str, usage: Mapping[str, Any], library: str, license: str) -> str:
    """Write the hub's metadata in YAML: library, task, data set, licence, measured metrics."""
    from huggingface_hub import EvalResult, ModelCardData

    try:
        tag = task_of(usage).tag(usage)
    except UserError:
        tag = None
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
        tags=["dlreview", name],
        datasets=[data] if HUB_NAME.fullmatch(data) else None,
        model_name=name,
        eval_results=results if data and results else None,
    )
    return found.to_yaml().strip()


def _metrics(usage: Mapping[str, Any]) -> dict[str, float]:
    metrics = usage.get("metrics")
    if not isinstance(metrics, Mapping):
        return {}
    return {str(k): float(v) for k, v in metrics.items() if isinstance(v, int | float)}


def load_here(where: str, run: str, formats: list[str]) -> str:
    """Tell how to load a folder of dlreview, and how to take the network elsewhere.

    Args:
        where: a folder, or `owner/name`.
        run: what to export.
        formats: libraries that have a class for the network.
    """
    text = f'```python\nimport dlreview\n\nnet = dlreview.load("{where}")\n```\n'
    text += f"\n`python -m dlreview.sample {where}` calls it from the command line.\n"
    if formats:
        text += "\nFor other libraries:\n\n```\n"
        text += "".join(f"python -m dlreview.export {run} DIR --format {f}\n" for f in formats)
        text += "```\n"
    return text
