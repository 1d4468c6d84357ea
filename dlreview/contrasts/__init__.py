"""The comparisons that the lecture draws, one file each: a number, a verdict and a picture.

A module of this folder has
    FLAGS: dict[str, Flag], its flags beside `--out`;
    WORDS: how many words it takes, at least and at most;
    HELP: the lines of the help: what is compared, its words and its flags;
    contrast(words, options) -> None, which measures, prints and writes pictures to options["out"].
A new comparison is a new module; nothing else names it.
"""

from __future__ import annotations

import pkgutil


def names() -> list[str]:
    """List the comparisons."""
    return [module.name for module in pkgutil.iter_modules(__path__)]
