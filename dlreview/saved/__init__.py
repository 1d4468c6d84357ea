"""A network as a folder: its configuration, its weights, writing and reading them."""

from dlreview.saved.configuration import build, config_of
from dlreview.saved.folder import checksum, save, write_weights
from dlreview.saved.layout import (
    CARD,
    CHECKPOINT,
    CONFIG,
    INDEX,
    PICTURE,
    RECIPE,
    USAGE,
    WEIGHTS,
    is_unfinished,
    read_json,
    write_json,
)
from dlreview.saved.loading import config_in, load, load_folder, locate, names
from dlreview.saved.refuse import NoStart
from dlreview.saved.run import read_checkpoint

__all__ = [
    "CARD",
    "CHECKPOINT",
    "CONFIG",
    "INDEX",
    "PICTURE",
    "RECIPE",
    "USAGE",
    "WEIGHTS",
    "NoStart",
    "build",
    "checksum",
    "config_in",
    "config_of",
    "is_unfinished",
    "load",
    "load_folder",
    "locate",
    "names",
    "read_checkpoint",
    "read_json",
    "save",
    "write_json",
    "write_weights",
]
