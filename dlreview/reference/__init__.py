"""Carry weights between our networks and the classes of timm, transformers, diffusers and torch."""

from dlreview.reference.maps import (
    Example,
    Map,
    all_examples,
    all_maps,
    find_map,
    formats,
    from_reference,
    maps_of,
    to_reference,
)
from dlreview.reference.pretrained import Pretrained

__all__ = [
    "Example",
    "Map",
    "Pretrained",
    "all_examples",
    "all_maps",
    "find_map",
    "formats",
    "from_reference",
    "maps_of",
    "to_reference",
]
