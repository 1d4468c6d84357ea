"""Folders that a library reads with its own public call: weights, configuration, preprocessing.

A writer takes a network of ours, its usage (`dlreview.usage`) and an empty folder, and returns the
Python code that loads it, with {where} for the folder. It reads back what it wrote.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlreview.reference.hugging_face import Quiet, switches_of
from dlreview.reference.maps import all_modules, find_map, formats, maps_of, to_reference
from dlreview.reference.text_files import TextFiles
from dlreview.samplers.diffusers_config import PREDICTIONS
from dlreview.saved import CONFIG, WEIGHTS, build, config_of, write_json
from dlreview.usage import image_shape
from dlreview.usage.diffusion import settings_of


def _normalisation(usage: Mapping[str, Any], ours: Any) -> dict[str, list[float]]:
    """Return the mean and standard deviation, of pixels in [0, 1], that a library is to use.

    They come from the range of our pixels and from the mean that our network subtracts itself.
    """
    image = usage["image"]
    (low, high), channels = image["range"], image["channels"]
    subtracted = getattr(ours, "pixel_mean", None) or [0.0] * channels
    mean = [(value - low) / (high - low) for value in subtracted]
    return {"mean": mean, "std": [1 / (high - low)] * channels}


def _without_pixel_mean(ours: nn.Module, usage: Mapping[str, Any] | None = None) -> nn.Module:
    """Return the network without the mean of pixels, which libraries subtract beforehand.

    Raises:
        ValueError: `usage` is given and does not describe images, where the mean could be written.
    """
    if getattr(ours, "pixel_mean", None) is None:
        return ours
    if usage is not None and "image" not in usage:
        raise ValueError("pixel_mean cannot be written: usage.json does not describe images")
    plain: Any = copy.deepcopy(ours)
    plain.pixel_mean = plain.pixel_offset = None
    return plain


def _names(usage: Mapping[str, Any], classes: int | None) -> list[str]:
    names = [str(name) for name in usage.get("class_names") or []]
    return names if len(names) == classes else []


def _same(one: nn.Module, two: nn.Module, what: str) -> None:
    """Refuse a folder whose weights are read back differently.

    Raises:
        ValueError: an entry of the state differs.
    """
    state, again = one.state_dict(), two.state_dict()
    uneven = [
        k
        for k, tensor in state.items()
        # timm reads float64 into float32
        if k not in again or not torch.equal(tensor.to(again[k].dtype), again[k])
    ]
    if uneven or len(state) != len(again):
        raise ValueError(f"{what} does not read back {(uneven or sorted(again))[0]!r} as it was")


# timm


def write_timm(ours: nn.Module, usage: Mapping[str, Any], folder: Path) -> str:
    """Write what `timm.create_model("local-dir:FOLDER", pretrained=True)` reads.

    Raises:
        ValueError: no model of timm's registry is like ours.
    """
    import timm
    from safetensors.torch import save_file

    plain = _without_pixel_mean(ours, usage)
    theirs: Any = to_reference(plain, "timm").eval()
    registry = find_map(theirs).registry
    if registry is None:
        raise ValueError(f"no name of timm's registry is known for {type(theirs).__name__}")
    name, arguments = _registered(theirs, *registry(plain))
    state = {k: v.contiguous() for k, v in theirs.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    known = dict(timm.create_model(name, **arguments, pretrained=False).pretrained_cfg)
    cfg = {k: known[k] for k in ("first_conv", "classifier") if k in known}
    cfg |= {"num_classes": theirs.num_classes, "custom_load": False}
    if "image" in usage:
        image = usage["image"]
        cfg |= {"input_size": [image["channels"], image["height"], image["width"]]}
        cfg |= {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "lanczos"}
        cfg |= _normalisation(usage, ours)
    config = {
        "architecture": name,
        "num_classes": theirs.num_classes,
        "num_features": theirs.num_features,
        "model_args": arguments,
        "pretrained_cfg": cfg,
    }
    if names := _names(usage, theirs.num_classes):
        config["label_names"] = names
    write_json(folder / CONFIG, config)
    _same(theirs, timm.create_model(f"local-dir:{folder}", pretrained=True), "timm")
    return (
        "import timm\n\n"
        'net = timm.create_model("{where}", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))\n"
    )


def _registered(
    theirs: nn.Module, names: list[str], arguments: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Find a name of timm's registry that makes theirs from the JSON values of `arguments`."""
    import timm

    plain = {k: _listed(v) for k, v in arguments.items() if _is_plain(v) and k != "weight_init"}
    for name in names:
        for norm in ({}, {"norm_layer": "rmsnorm"}):
            with torch.device("meta"):
                made = timm.create_model(name, **plain | norm)
            if repr(made) == repr(theirs):
                return name, plain | norm
    raise ValueError(
        f"no name of timm's registry makes this {type(theirs).__name__} (tried {', '.join(names)}):"
        " norm, block or feed-forward layer are of another kind"
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# transformers


def write_transformers(
    ours: nn.Module, usage: Mapping[str, Any], folder: Path, text: TextFiles | None = None
) -> str:
    """Write what `AutoModel....from_pretrained(FOLDER)` reads, with its preprocessing.

    Args:
        ours: the network.
        usage: an image processor is written if it describes images.
        folder: an empty folder.
        text: the tokenizer, if the network reads or writes text.
    """
    import transformers

    theirs: Any = to_reference(_without_pixel_mean(ours, usage), "transformers")
    kind, options = type(theirs).__name__, optional_parts(theirs)
    if names := _names(usage, getattr(ours, "num_classes", None)):
        theirs.config.id2label = dict(enumerate(names))
        theirs.config.label2id = {name: n for n, name in enumerate(names)}
    arguments = "".join(f", {key}={value}" for key, value in options.items())
    imports, lines = {kind}, [f'net = {kind}.from_pretrained("{{where}}"{arguments})']
    with Quiet(transformers.utils.logging):
        if text is not None:
            imports |= text.prepare(theirs, folder)
        theirs.save_pretrained(folder)
        if "image" in usage and theirs.main_input_name == "pixel_values":
            image_processor(usage, ours).save_pretrained(folder)
            imports.add("AutoImageProcessor")
            lines.append('processor = AutoImageProcessor.from_pretrained("{where}")')
        again = type(theirs).from_pretrained(folder, **options)
    _same(theirs, again, "transformers")
    lines = [f"from transformers import {', '.join(sorted(imports))}", "", *lines]
    return "\n".join(lines if text is None else text.card(lines)) + "\n"


def image_processor(usage: Mapping[str, Any], ours: nn.Module) -> Any:
    """Make the image processor of transformers that reads pictures as the training data was."""
    from transformers import ViTImageProcessor

    image, scale = usage["image"], _normalisation(usage, ours)
    return ViTImageProcessor(
        size={"height": image["height"], "width": image["width"]},
        resample=1,  # Lanczos
        image_mean=scale["mean"],
        image_std=scale["std"],
        do_convert_rgb=image["channels"] == 3,
    )


def optional_parts(theirs: Any) -> dict[str, bool]:
    """Find the switches, other than the defaults, that made theirs."""
    for options in switches_of(type(theirs)):
        with torch.device("meta"):
            made = type(theirs)(theirs.config, **options)
        if made.state_dict().keys() == theirs.state_dict().keys():
            return options
    raise ValueError(f"{type(theirs).__name__} cannot be made again from its configuration")


# diffusers


def write_diffusers(ours: nn.Module, usage: Mapping[str, Any], folder: Path) -> str:
    """Write the folder of a pipeline where there is one, else of the model alone."""
    theirs: Any = to_reference(ours, "diffusers")
    if usage.get("task") != "diffusion" or type(theirs).__name__ != "UNet2DModel":
        kind = type(theirs).__name__
        theirs.save_pretrained(folder)
        _same(theirs, type(theirs).from_pretrained(folder), "diffusers")
        return f'from diffusers import {kind}\n\nnet = {kind}.from_pretrained("{{where}}")\n'
    return write_pipeline(theirs, usage, folder)


def write_pipeline(theirs: Any, usage: Mapping[str, Any], folder: Path) -> str:
    """Write a UNet2DModel with its scheduler: `DDPMPipeline` and `DDIMPipeline` both read it.

    Raises:
        ValueError: diffusers has no scheduler for what the network predicts.
    """
    from diffusers import DDPMPipeline
    from diffusers.utils import logging

    _, height, width = image_shape(usage)
    theirs.register_to_config(sample_size=height if height == width else [height, width])
    settings = settings_of(usage)
    pipeline = DDPMPipeline(theirs.eval(), scheduler(settings))
    with Quiet(logging):
        pipeline.save_pretrained(folder)
        kind = "DDIMPipeline" if settings["sampler"] == "ddim" else "DDPMPipeline"
        index = json.loads((folder / "model_index.json").read_text())
        write_json(folder / "model_index.json", index | {"_class_name": kind})
        again = DDPMPipeline.from_pretrained(folder)
    _same(theirs, again.unet, "diffusers")
    text = f'from diffusers import {kind}\n\npipeline = {kind}.from_pretrained("{{where}}")\n'
    if theirs.class_embedding is None:
        steps = settings["steps"] if kind == "DDIMPipeline" else len(again.scheduler.betas)
        return text + f"image = pipeline(num_inference_steps={steps}).images[0]\n"
    return text + conditional_loop(theirs, settings)


def scheduler(settings: Mapping[str, Any]) -> Any:
    """Make the scheduler of diffusers for the settings of `dlreview.usage.diffusion`.

    Raises:
        ValueError: diffusers has no scheduler for what the network predicts.
    """
    from diffusers import DDPMScheduler

    if settings["prediction"] not in PREDICTIONS:
        raise ValueError(f"diffusers has no scheduler for prediction {settings['prediction']!r}")
    clip = settings.get("clip")
    return DDPMScheduler(
        **settings["schedule"],
        prediction_type=PREDICTIONS[settings["prediction"]],
        variance_type="fixed_small",
        clip_sample=clip is not None,
        clip_sample_range=1.0 if clip is None else clip,
    )


def conditional_loop(theirs: Any, settings: Mapping[str, Any]) -> str:
    """Write a loop that draws with classes, because diffusers has no pipeline for them."""
    size, null = theirs.config.sample_size, settings.get("null_class")
    shape = [theirs.config.in_channels, *([size, size] if isinstance(size, int) else size)]
    lines = [
        "net, scheduler = pipeline.unet, pipeline.scheduler",
        f"scheduler.set_timesteps({settings['steps']})",
        f"label, x = torch.arange({settings['num_classes']}), torch.randn("
        f"{settings['num_classes']}, {', '.join(map(str, shape))})",
        "for t in scheduler.timesteps:",
        "    with torch.no_grad():",
        "        guess = net(x, t, class_labels=label).sample",
    ]
    if null is not None:
        lines += [
            f"        free = net(x, t, class_labels=torch.full_like(label, {null})).sample",
            f"        guess = free + {settings['guidance']} * (guess - free)",
        ]
    lines.append("        x = scheduler.step(guess, t, x).prev_sample")
    return "\n# diffusers has no pipeline with classes; this loop draws one image of each\n" + (
        "import torch\n\n" + "\n".join(lines) + "\n"
    )


def without_classes(ours: nn.Module, label: int) -> nn.Module:
    """Make of a class-conditional DiffusionUNet one that draws this class only.

    The embedding of the class is added to that of the time; it becomes part of the time's bias.

    Raises:
        ValueError: the network has no table of classes.
    """
    config = config_of(ours)
    arguments = config["init_args"]
    table = getattr(getattr(getattr(ours, "embedding", None), "label", None), "weight", None)
    if not getattr(ours, "num_classes", None) or "label" not in arguments or table is None:
        raise ValueError(f"this {type(ours).__name__} has no table of classes")
    single: Any = build(config | {"init_args": arguments | {"label": None}})
    state = {k: v for k, v in ours.state_dict().items() if not k.startswith("embedding.label.")}
    state["embedding.time.2.bias"] = state["embedding.time.2.bias"] + table[label].detach()
    single.to(table.dtype).load_state_dict(state)
    return single.eval()


Writer = Callable[[nn.Module, Mapping[str, Any], Path], str]
# Libraries whose maps are enough to write a folder. A file of this folder may add a writer for one
# class: FOLDERS = {library: (path of our class, writer)}.
WRITERS: dict[str, Writer] = {
    "timm": write_timm,
    "transformers": write_transformers,
    "diffusers": write_diffusers,
}


def writers_of(ours: nn.Module) -> dict[str, Writer]:
    """Return the libraries that have a class like ours; they are not imported to see if it fits."""
    path = f"{type(ours).__module__}.{type(ours).__qualname__}"
    maps = [m for m in maps_of(ours) if m.library != "timm" or m.registry]  # timm reads by name
    found = {m.library: WRITERS[m.library] for m in maps if m.library in WRITERS}
    for module in all_modules():
        for library, (cls, writer) in getattr(module, "FOLDERS", {}).items():
            if cls == path:
                found[library] = writer
    return dict(sorted(found.items()))


def writable(ours: nn.Module) -> dict[str, Writer]:
    """Return the libraries whose folders can be written for this very network."""
    fitting = formats(_without_pixel_mean(ours))
    return {k: writer for k, writer in writers_of(ours).items() if k in fitting or k not in WRITERS}
