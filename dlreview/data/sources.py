"""Where data come from: a local folder or file, or a data set of the Hugging Face hub."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlreview.data.contents import why_a_file_is_wrong, why_no_cache, why_no_column, why_no_data
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
def opening(path: str, config: str | None = None) -> Iterator[str]:
    """Give what `datasets` is to open for `path`, and tell in one line why it cannot be read.

    Raises:
        ValueError: there is no such data set or configuration, or its files are damaged.
        OSError: the hub cannot be reached, or the cache cannot be written.
    """
    import datasets
    from datasets import exceptions
    from datasets.data_files import EmptyDatasetError

    place = Path(locate(path))
    if place.is_file():
        raise ValueError(f"path {path!r} {why_a_file_is_wrong(place)}")
    if place.exists():  # else a folder "csv" would be the reader of that name, of all files here
        place = place.absolute()
    datasets.disable_progress_bars()
    wrong = (exceptions.DatasetGenerationError, exceptions.DatasetNotFoundError, ValueError,
             KeyError)  # fmt: skip
    try:
        yield str(place)
    except (exceptions.DataFilesNotFoundError, EmptyDatasetError) as error:
        reason = why_no_data(place) if place.is_dir() else one_line(str(error), 200)
        raise ValueError(f"path {path!r}: {reason}") from None
    except wrong as error:
        check_config(path, place, config)
        reason = one_line(str(error.__cause__ or error), 200)
        raise ValueError(f"path {path!r} cannot be read: {reason}") from None
    except OSError as error:
        if reason := why_no_cache(str(datasets.config.HF_DATASETS_CACHE)):
            raise OSError(reason) from error
        if place.exists():
            raise
        hint = "set DLREVIEW_DATA to a folder that holds it to stay offline"
        raise OSError(f"path {path!r} is not here and the hub cannot be reached; {hint}") from error


def prepare(path: str, config: str | None = None) -> Any:
    """Return the builder of a Hugging Face data set, after it has read or fetched all files.

    Raises:
        ValueError: there is no such data set, or its files are damaged.
        OSError: the hub cannot be reached.
    """
    import datasets

    with opening(path, config) as place:
        builder = datasets.load_dataset_builder(place, config)
        builder.download_and_prepare()
    return builder


def check_config(path: str, place: Path, config: str | None) -> None:
    """Refuse an unknown configuration, or a missing one where there are several.

    Raises:
        ValueError: names those that there are.
    """
    import datasets

    try:
        names = datasets.get_dataset_config_names(str(place))
    except Exception:  # the same as before, which is told
        return
    if config is not None:
        check_known(f"config of {path!r}", config, names)
    elif len(names) > 1:
        listing = one_line(", ".join(names), 200)
        raise ValueError(
            f"path {path!r} has several configurations\nset config to one of {listing}"
        )


def refuse_config(path: str, config: str | None) -> None:
    """Refuse a configuration of data that have none: embedded data, or a file.

    Raises:
        ValueError: names both.
    """
    if config is not None:
        raise ValueError(f"config of {path!r} must be null, got {config!r}: it is no data set")


class Source:
    """A Hugging Face data set.

    Args:
        path: a folder that `datasets` reads, or a name on the hub.
        config: name of its configuration, where it has several.

    Raises:
        ValueError: there is no such data set or configuration, or its files are damaged.
        OSError: the hub cannot be reached, or the cache cannot be written.
    """

    def __init__(self, path: str, config: str | None = None) -> None:
        self.path, self.builder = path, prepare(path, config)
        self.names = [str(name) for name in self.builder.info.splits]
        place = Path(locate(path))
        self.folder = place if place.is_dir() else None
        """The local folder; None for a data set of the hub."""

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
                reason = self.folder and why_no_column(self.folder, column)
                raise ValueError(
                    f"path {self.path!r} has no column {column!r}; it has {listing}"
                    + (f"\n{reason}" if reason else "")
                )
        if len(rows) == 0:
            raise ValueError(f"{where}: there are no rows")
        return rows.select_columns(list(columns))
