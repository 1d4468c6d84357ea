"""Draw images with a network that undoes noise (rows 81 and 91).

Settings: `schedule` in the words of diffusers' schedulers, `prediction` ("eps", "x0", "v" or
"score"), `num_classes` and `null_class` (null where there are none), the defaults of the flags
`guidance`, `sampler` and `steps`, and `clip`, the largest pixel.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import UserError
from dlreview.plots.files import save_images
from dlreview.running.command import Flag, number, one_of, whole
from dlreview.samplers import Schedule, ddim, ddpm, guidance
from dlreview.usage import class_number, image_shape

SAMPLERS = ("ddim", "ddpm")
FLAGS = {
    "--count": Flag(whole(1, 100_000)),
    "--class": Flag(str),
    "--guidance": Flag(number),
    "--sampler": Flag(one_of(*SAMPLERS)),
    "--steps": Flag(whole(1)),
    "--seed": Flag(whole(0, 2**63 - 1), 0),
    "--batch": Flag(whole(1), 500),
}
WORDS, FILES = (0, 0), False
HELP = """
  --count N          images to draw
  --class NAME       all of this class, by name or number (default: every class in turn)
  --guidance W       weight of the class: 1 is plain conditional sampling, 0 ignores the class
  --sampler ddim|ddpm
  --steps N          calls of the network per image
  --seed N           the same seed draws the same images (default 0)
  --batch N          images at a time (default 500)"""


def tag(usage: Mapping[str, Any]) -> str:
    """Name the task as the hub does."""
    return "unconditional-image-generation"


def example(data: Any, folder: Path) -> list[str] | None:
    """Return no words: the network draws without them."""
    return []


def settings_of(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, each checked.

    Raises:
        ValueError: one is missing or makes no sense.
    """
    settings = usage.get("settings")
    if not isinstance(settings, dict):
        raise ValueError(f"usage.json: expected settings, got {str(settings)[:80]!r}")
    classes, null = settings.get("num_classes"), settings.get("null_class")
    valid = {
        "prediction": settings.get("prediction") in ("eps", "x0", "v", "score"),
        "num_classes": classes is None or (isinstance(classes, int) and classes > 0),
        "null_class": null is None or isinstance(null, int),
        "guidance": isinstance(settings.get("guidance"), int | float),
        "sampler": settings.get("sampler") in SAMPLERS,
        "steps": isinstance(settings.get("steps"), int),
        "clip": settings.get("clip") is None or isinstance(settings["clip"], int | float),
    }
    for key, passes in valid.items():
        if not passes:
            raise ValueError(f"usage.json: settings: {key} is {settings.get(key)!r}")
    return settings


def schedule_of(settings: Mapping[str, Any]) -> Schedule:
    """Build the noise schedule that the settings describe.

    Raises:
        ValueError: they describe none.
    """
    config = settings.get("schedule")
    try:
        assert isinstance(config, Mapping)
        T, kind = int(config["num_train_timesteps"]), config.get("beta_schedule")
        if T > 1_000_000:
            raise ValueError(f"num_train_timesteps {T} is more than a million")
        if "trained_betas" in config:
            return Schedule(config["trained_betas"])
        if kind == "squaredcos_cap_v2":
            return Schedule.cosine(T)
        build = {"linear": Schedule.linear, "scaled_linear": Schedule.scaled_linear}[str(kind)]
        return build(T, float(config["beta_start"]), float(config["beta_end"]))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"usage.json: settings: schedule: {error or 'none'}") from None


def sample(
    net: nn.Module, usage: Mapping[str, Any], words: list[str], options: dict[str, Any]
) -> None:
    """Draw images, write them and a grid of all to options["out"], print where the grid is.

    Raises:
        UserError: an option does not fit the network.
    """
    settings = settings_of(usage)
    given = {name: settings[name] for name in ("guidance", "sampler", "steps")}
    given |= {name: options[name] for name in given if options[name] is not None}
    s, classes = schedule_of(settings), settings.get("num_classes")
    if given["sampler"] == "ddpm" and options["steps"] is None:
        given["steps"] = s.T
    if given["steps"] > s.T:
        raise UserError("--steps", f"got {given['steps']}", f"valid: 1 to {s.T}")
    if not classes and (options["class"] is not None or options["guidance"] is not None):
        flag = "--class" if options["class"] is not None else "--guidance"
        raise UserError(flag, "this network was trained without classes")
    if settings.get("null_class") is None and given["guidance"] not in (0, 1):
        raise UserError("--guidance", "this network was trained without a null class", "valid: 1")
    columns = classes if classes and 5 <= classes <= 20 and options["class"] is None else None
    count = options["count"] or (5 * columns if columns else 36)
    label = None
    if classes and options["class"] is not None:
        label = torch.full((count,), class_number(usage, options["class"], classes))
    elif classes:
        label = torch.arange(count) % classes
    generator = torch.Generator().manual_seed(options["seed"])
    noise = torch.randn(count, *image_shape(usage), generator=generator)
    start = time.monotonic()
    images = draw(net, noise, label, s, settings | given, generator, options["batch"])
    seconds = time.monotonic() - start
    grid = save_images(images, Path(options["out"]), columns)
    print(
        f"{count} images, {given['sampler']}, {given['steps']} steps, seed {options['seed']}"
        + (f", guidance {given['guidance']:g}" if classes else "")
        + f": {seconds:.1f} s"
    )
    print(f"picture: {grid}")


@torch.no_grad()
def draw(
    net: nn.Module,
    noise: Float[Tensor, "count channels height width"],
    label: Tensor | None,
    s: Schedule,
    settings: Mapping[str, Any],
    generator: torch.Generator,
    batch: int,
) -> Float[Tensor, "count channels height width"]:
    """Turn noise into images, `batch` at a time; diffusers' pipelines take the same numbers."""
    parameter = next(net.parameters())
    options: dict[str, Any] = {"kind": settings["prediction"], "clip": settings.get("clip")}
    done = []
    for at in range(0, len(noise), batch):
        part: Any = net
        if label is not None:
            null = settings.get("null_class") or 0
            wanted = label[at : at + batch].to(parameter.device)
            part = guidance.classifier_free(net, wanted, null, settings["guidance"])
        x = noise[at : at + batch].to(parameter.device, parameter.dtype)
        sampler: Any = ddim if settings["sampler"] == "ddim" else ddpm
        done.append(
            sampler.sample(part, x, s, settings["steps"], generator=generator, **options).cpu()
        )
    return torch.cat(done).float()
