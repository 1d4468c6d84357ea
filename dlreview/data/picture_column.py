"""A column of pictures, in each of the forms that tables have: files, bytes, or paths."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BYTES = ("binary", "large_binary", "binary_view")
STRINGS = ("string", "large_string", "string_view")


def picture_cells(rows: Any, column: str, where: str) -> Any:
    """Return a column of cells {"bytes", "path"} that are not decoded yet.

    A column holds pictures as `datasets` writes them, or as pandas does: structures of "bytes" and
    "path" (one of them is enough), the bytes of files, or the paths of files.

    Args:
        rows: a `datasets.Dataset`.
        column: name of the column.
        where: how messages name it.

    Raises:
        ValueError: the column holds something else.
    """
    from datasets import Image

    kind = rows.features[column]
    inner = kind if isinstance(kind, Mapping) else {}
    name = "structures of " + ", ".join(inner) if inner else getattr(kind, "dtype", "")
    is_structure = bool(inner) and inner.keys() <= {"bytes", "path"}
    if not (isinstance(kind, Image) or is_structure or name in BYTES + STRINGS):
        raise ValueError(f"{where}: not pictures but {name or type(kind).__name__}")
    cells = rows.cast_column(column, Image(decode=False))[column]
    first = cells[0]["path"] if name in STRINGS and cells[0] else None
    if first and re.match(r"https?://", first):
        raise ValueError(f"{where}: not pictures but addresses\ndownload the pictures first")
    return cells


def is_missing(cell: Any) -> bool:
    """Whether a cell has neither bytes nor a path."""
    return cell is None or (isinstance(cell, dict) and cell["bytes"] is None and not cell["path"])


def picture_file(cell: Mapping[str, Any], folder: Path | None) -> bytes | Path:
    """Return what to decode: the bytes of a file, or its path.

    Args:
        cell: of `picture_cells`, not missing.
        folder: paths are relative to it.

    Raises:
        ValueError: an archive has no such file.
    """
    if cell["bytes"] is not None:
        return bytes(cell["bytes"])
    path = str(cell["path"])
    if "::" in path:  # inside an archive: zip://a/0.png::/data/set.zip
        return read_from_archive(path)
    return Path(folder or ".") / os.path.expanduser(path)


def read_from_archive(path: str) -> bytes:
    """Read a file of an archive that lies in the folder of a data set.

    Raises:
        ValueError: it cannot be read.
    """
    import fsspec  # type: ignore[import-untyped]

    try:
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())
    except (OSError, KeyError) as error:
        raise ValueError(f"is no picture that can be read: {error}") from None
