"""What a local folder or file holds: the reason why `datasets` cannot read it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections import Counter
from pathlib import Path

LISTED = 4  # kinds of files in a message
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # tables of what pictures show
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
# Pictures that Pillow does not read without a plug-in.
UNREADABLE = (".heic", ".heif", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".svg", ".psd")
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
TABLES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".arrow")


def count_endings(folder: Path) -> Counter[str]:
    """Count the files in a folder, and in the folders below it, by the ends of their names."""
    names = (name for _, _, files in os.walk(folder) for name in files)
    return Counter(Path(name).suffix.lower() for name in names if not name.startswith("."))


def list_endings(found: Counter[str]) -> str:
    """Write counted endings as "30 .png, 1 .csv", the most frequent first."""
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:LISTED]
    listed = [f"{count} {end or 'without an ending'}" for end, count in ranked]
    return ", ".join(listed) + (", ..." if len(found) > LISTED else "")


def why_no_data(folder: Path) -> str:
    """Say what a folder holds in which no file could be read, and what to do, in two lines."""
    found = count_endings(folder)
    if not found:
        return "the folder is empty"
    hint = "valid: pictures, Parquet, CSV, JSON or text files"
    if found.keys() & set(UNREADABLE):
        hint = "convert the pictures to PNG or JPEG"
    return f"there is no file that can be read, but {list_endings(found)}\n{hint}"


def why_no_column(folder: Path, column: str) -> str:
    """Explain why the files of a folder of pictures have no such column; "" for other folders."""
    found = count_endings(folder)
    found -= Counter(Path(name).suffix for name in METADATA for _ in folder.rglob(name))
    pictures = Counter({end: n for end, n in found.items() if end in PICTURES})
    tables = Counter({end: n for end, n in found.items() if end in TABLES})
    if pictures and not tables and column == "label":
        return "labels are the names of two or more folders; without classes set label_column null"
    if not pictures or not tables:
        return ""
    return (
        f"the folder holds pictures and tables ({list_endings(pictures + tables)}), of which one "
        "kind is read; keep them in two folders"
    )


def left_out(folder: Path) -> str:
    """Count the pictures that are left out, because Pillow cannot read them; "" for none."""
    found = count_endings(folder)
    unread = Counter({end: n for end, n in found.items() if end in UNREADABLE})
    return list_endings(unread)


def why_a_file_is_wrong(file: Path) -> str:
    """Say what to do with a file that was given in place of a folder."""
    end = file.suffix.lower()
    if end in ARCHIVES:
        return "is an archive; unpack it and give the folder"
    if end in TABLES:
        return "is a table; give the folder that holds it"
    if end in PICTURES + UNREADABLE:
        return "is one picture; give the folder that holds it"
    return "is a file; a folder or a name on the hub is needed"


def why_no_cache(cache: str) -> str:
    """Say why the folder of prepared data cannot be written; "" if it can be."""
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return ""
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return ""  # a full disk has a message of its own
        return (
            f"the cache of data sets {cache} cannot be written: {error.strerror}\n"
            "set HF_DATASETS_CACHE to a folder that can be written"
        )
