"""A recipe's network that starts from the weights of any library.

    net:
      class_path: dlreview.reference.Pretrained
      init_args: {path: timm/vit_small_patch16_224.dino, frozen: true, num_classes: 10}

It makes the network of `dlreview.nn` that the weights fit; nothing of the library is left in it.
`path` is a repository on the hub or a folder, of timm, transformers, diffusers or dlreview.

Pixels are in [-1, 1] here, as `dlreview.data.images` gives them. If the weights were trained with
another mean and standard deviation, and their files say so, the first layer is changed so that
pixels in [-1, 1] give the same results (`reference/pixel_scale.py`). What is trained, saved,
sampled and exported is this network; an exported folder names a mean and a deviation of 0.5.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlreview import saved
from dlreview.reference.pixel_scale import PREPROCESSOR, keep_pixel_scale, read_pixel_scale
from dlreview.reference.wrapped import copy_unwrapped

PIPELINE = "model_index.json"  # of diffusers


class Pretrained(nn.Module):
    """Start from the weights at `path`; the object made is a network of `dlreview.nn` itself.

    Names of weights may have the prefixes of wrappers, `module.` and `_orig_mod.`.

    Args:
        path: a repository `owner/name` on the hub, or a folder.
        frozen: keep the weights as they are: no gradients, evaluation mode (no dropout, fixed
            running statistics). A new head learns all the same.
        num_classes: give the network a new head for this number of classes, unless it has one.
        subfolder: the part of a pipeline of diffusers, by default its U-Net; of several networks of
            dlreview the name of one, by default the main one.

    Raises:
        ValueError: no network of ours fits what is there; the class or field is named. Or its
            pixels have a mean and standard deviation that the first layer cannot take over.
        OSError: there is nothing there, or the hub cannot be reached.
    """

    def __new__(
        cls,
        path: str,
        frozen: bool = False,
        num_classes: int | None = None,
        subfolder: str | None = None,
    ) -> Any:
        """Make the network, on the meta device without its weights."""
        # While a recipe is checked networks live on the meta device, and weights are not fetched.
        checked = torch.get_default_device().type == "meta"
        return (architecture if checked else start)(path, frozen, num_classes, subfolder)

    def __init__(
        self,
        path: str,
        frozen: bool = False,
        num_classes: int | None = None,
        subfolder: str | None = None,
    ) -> None:
        # Python calls this on instances of Pretrained only, and there are none: it is here for its
        # signature, which recipes are checked against.
        raise TypeError("Pretrained makes networks of dlreview.nn")


def start(
    path: str, frozen: bool = False, num_classes: int | None = None, subfolder: str | None = None
) -> nn.Module:
    """Load and adapt; see `Pretrained`."""
    from dlreview.reference.maps import from_reference

    source = Source(path, subfolder)
    net = (
        saved.load(path, subfolder)
        if source.library == "dlreview"
        else from_reference(source.load())
    )
    net = net.to(torch.get_default_dtype()).train().requires_grad_(True)
    source.keep_pixel_scale(net)
    loaded = net.state_dict()
    net = _with_head(net, num_classes)
    places = net.state_dict(keep_vars=True)
    kept = [name for name in loaded if name in places and places[name].shape == loaded[name].shape]
    with torch.no_grad():
        for name in kept:
            places[name].copy_(loaded[name])
    if frozen:
        net.eval()
        for name in kept:
            places[name].requires_grad_(False)
    return net


def architecture(
    path: str, frozen: bool = False, num_classes: int | None = None, subfolder: str | None = None
) -> nn.Module:
    """Make the network that `start` makes, without weights, on the default device."""
    from dlreview.reference.maps import find_map

    source = Source(path, subfolder)
    if source.library == "dlreview":
        config = source.config
    else:
        with torch.device("meta"):
            theirs = source.make()
        with torch.device("cpu"), saved.NoStart():  # ours are composed with numbers at hand
            config = saved.config_of(find_map(theirs).build_ours(theirs))
    net = saved.build(config, path)
    source.keep_pixel_scale(net)
    return _with_head(net, num_classes)


def _with_head(net: nn.Module, num_classes: int | None) -> nn.Module:
    """Make the same network for another number of classes, with new weights; or keep it."""
    if num_classes is None or getattr(net, "num_classes", None) == num_classes:
        return net
    config = saved.config_of(net)
    arguments = config["init_args"]
    label = arguments.get("label") or {}  # a U-Net has its classes in a part
    place = arguments if "num_classes" in arguments else label.get("init_args", {})
    if "num_classes" not in place:
        raise ValueError(f"num_classes {num_classes}: {type(net).__name__} has no such argument")
    place["num_classes"] = num_classes
    return saved.build(config, "net")


class Source:
    """Weights at a path: their library, and how it makes and loads their network.

    Raises:
        ValueError: it is no model of a library that we know.
        OSError: there is nothing there, or the hub cannot be reached.
    """

    def __init__(self, path: str, subfolder: str | None = None) -> None:
        self.path, self.subfolder = path, subfolder
        files = (
            saved.CONFIG,
            f"*/{saved.CONFIG}",
            saved.INDEX,
            PIPELINE,
            PREPROCESSOR,
            saved.USAGE,
        )
        self.folder = saved.locate(path, files)
        self.local = Path(path).is_dir()
        self.config: dict[str, Any] = {}
        self.library = self._read()

    def _read(self) -> str:
        """Find the library by what the configuration says."""
        if (self.folder / PIPELINE).is_file():
            self.subfolder = self.subfolder or "unet"
            self.config = saved.read_json(self.folder / self.subfolder / saved.CONFIG)
        elif (self.folder / saved.INDEX).is_file() or saved.is_unfinished(self.folder):
            self.config = saved.config_in(self.folder, self.subfolder)
        elif (self.folder / saved.CONFIG).is_file():
            self.config = saved.read_json(self.folder / saved.CONFIG)
        words = {
            "class_path": "dlreview",
            "_class_name": "diffusers",
            "architectures": "transformers",
            "architecture": "timm",
        }
        for word, library in words.items():
            if isinstance(self.config, dict) and self.config.get(word):
                return library
        raise ValueError(f"{self.path}: is no model of dlreview, {', '.join(LIBRARIES)}")

    def make(self) -> Any:
        """Make the library's network without its weights."""
        return LIBRARIES[self.library][0](self)

    def load(self) -> Any:
        """Load the library's network.

        Raises:
            ValueError: the library cannot.
            OSError: files are missing, or the hub cannot be reached.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._load()
        except (ValueError, OSError):
            raise
        except Exception as error:
            raise ValueError(f"{self.path}: {self.library} cannot load it: {error}") from error

    def _load(self) -> Any:
        """Load; where the library fails, once more with the names that wrappers changed."""
        load = LIBRARIES[self.library][1]
        try:
            return load(self)
        except Exception:
            part = self.folder / (self.subfolder or "")
            with tempfile.TemporaryDirectory() as copy:
                if not copy_unwrapped(part, self.library, Path(copy)):
                    raise
                plain = Source(copy)
                plain.path = self.path  # for messages
                return load(plain)

    def keep_pixel_scale(self, net: nn.Module) -> None:
        """Let the network read pixels in [-1, 1], whatever its own were.

        Raises:
            ValueError: its first layer cannot take over the mean and standard deviation.
        """
        scale = read_pixel_scale(self.library, self.config, self.folder)
        try:
            if scale is not None:
                keep_pixel_scale(net, scale)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None


def _class(source: Source, name: str) -> Any:
    """Find the library's class, if there is a map for it."""
    from dlreview.reference.maps import all_maps, no_map

    path = f"{source.library}.{name}"
    if path not in [m.theirs for m in all_maps()]:
        raise ValueError(f"{source.path}: {no_map(path)}")
    return getattr(__import__(source.library), name)


def _timm(source: Source, pretrained: bool) -> Any:
    import timm

    where = f"local-dir:{source.folder}" if source.local else f"hf-hub:{source.path}"
    return timm.create_model(where, pretrained=pretrained)


def _make_transformers(source: Source) -> Any:
    cls = _class(source, source.config["architectures"][0])
    return cls(cls.config_class.from_pretrained(source.folder))


def _load_transformers(source: Source) -> Any:
    """Load; of the parts that a class may have or not, take those that have weights."""
    from transformers.utils import logging

    from dlreview.reference.hugging_face import Quiet, switches_of

    cls = _class(source, source.config["architectures"][0])
    where = str(source.folder) if source.local else source.path
    missing: list[str] = []
    with Quiet(logging):
        for options in switches_of(cls):
            theirs, report = cls.from_pretrained(where, output_loading_info=True, **options)
            if not report["missing_keys"]:
                return theirs
            missing = missing or sorted(report["missing_keys"])
    raise ValueError(f"{source.path}: has no weights {missing[0]!r} of {cls.__name__}")


def _make_diffusers(source: Source) -> Any:
    cls = _class(source, source.config["_class_name"])
    return cls.from_config(source.config)


def _load_diffusers(source: Source) -> Any:
    from diffusers.utils import logging

    from dlreview.reference.hugging_face import Quiet

    cls = _class(source, source.config["_class_name"])
    where = str(source.folder) if source.local else source.path
    with Quiet(logging):
        theirs, report = cls.from_pretrained(
            where, subfolder=source.subfolder, output_loading_info=True
        )
    if missing := sorted(report["missing_keys"]):  # diffusers would leave them as drawn
        raise ValueError(f"{source.path}: has no weights {missing[0]!r} of {cls.__name__}")
    return theirs


LIBRARIES: dict[str, tuple[Any, Any]] = {
    "timm": (lambda source: _timm(source, False), lambda source: _timm(source, True)),
    "transformers": (_make_transformers, _load_transformers),
    "diffusers": (_make_diffusers, _load_diffusers),
}
