"""Where data come from: a local folder or file, or a data set of the Hugging Face hub."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlreview.messages import check_known, one_line


def locate(path: str) -> str:
    """Return what to open for `path`: $DLREVIEW_DATA wins, then a local folder or file.

    A leading `~` is the home folder.

    Raises:
        ValueError: `path` is written as a local folder or file and there is none.
    """
    root = os.environ.get("DLREVIEW_DATA")
    local = Path(path).expanduser()
    for place in ([Path(root).expanduser() / path] if root else []) + [local]:
        if path and place.exists():
            return str(place)
    is_file = re.search(r"\.(txt|text|md|tokens)$", path) is not None
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or not path or is_file:
        kind = "file" if is_file or re.search(r"\.[A-Za-z]\w*$", path) else "folder"
        where = f" (nor below DLREVIEW_DATA={root})" if root else ""
        raise ValueError(f"path {path!r}: there is no such {kind}{where}")
    return path


@contextlib.contextmanager
def opening(path: str) -> Iterator[str]:
    """Give what `datasets` is to open for `path`, and tell in one line why it cannot be read.

    Raises:
        ValueError: there is no such data set, or its files are damaged.
        OSError: the hub cannot be reached.
    """
    import datasets
    from datasets import exceptions

    place = locate(path)
    if Path(place).is_file():
        raise ValueError(f"path {path!r} is a file; a folder or a name on the hub is needed")
    datasets.disable_progress_bars()
    wrong = (exceptions.DatasetGenerationError, exceptions.DatasetNotFoundError,
             exceptions.DataFilesNotFoundError, ValueError, KeyError)  # fmt: skip
    try:
        yield place
    except wrong as error:
        reason = one_line(str(error.__cause__ or error), 200)
        raise ValueError(f"path {path!r} cannot be read: {reason}") from None
    except OSError as error:
        if Path(place).exists():
            raise
        hint = "set DLREVIEW_DATA to a folder that holds it to stay offline"
        raise OSError(f"path {path!r} is not here and the hub cannot be reached; {hint}") from error


def prepare(path: str) -> Any:
    """Return the builder of a Hugging Face data set, after it has read or fetched all files.

    Raises:
        ValueError: there is no such data set, or its files are damaged.
        OSError: the hub cannot be reached.
    """
    import datasets

    with opening(path) as place:
        builder = datasets.load_dataset_builder(place)
        builder.download_and_prepare()
    return builder


class Source:
    """A Hugging Face data set.

    Args:
        path: a folder that `datasets` reads, or a name on the hub.

    Raises:
        ValueError: there is no such data set, or its files are damaged.
        OSError: the hub cannot be reached.
    """

    def __init__(self, path: str) -> None:
        self.path, self.builder = path, prepare(path)
        self.names = [str(name) for name in self.builder.info.splits]

    def read(self, split: str, *columns: str) -> Any:
        """Return the named columns of a split, which may be a slice such as "train[:90%]".

        Raises:
            ValueError: there is no such split or column, or there are no rows.
        """
        if re.fullmatch(r"[\w.-]+", split):
            check_known(f"split of {self.path!r}", split, self.names)
        where = f"path {self.path!r}, split {split!r}"
        try:
            rows = self.builder.as_dataset(split=split)
        except (ValueError, AssertionError) as error:
            raise ValueError(f"{where}: {one_line(str(error), 200)}") from None
        for column in columns:
            if column not in rows.column_names:
                listing = ", ".join(rows.column_names)
                raise ValueError(f"path {self.path!r} has no column {column!r}; it has {listing}")
        if len(rows) == 0:
            raise ValueError(f"{where}: there are no rows")
        return rows.select_columns(list(columns))
