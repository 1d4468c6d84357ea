"""A column of pictures in each form that pandas and `datasets` write."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dlreview.data.images import Images

PIXELS = np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3), np.uint8)


def files():
    for pixels in PIXELS:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        yield file.getvalue()


def read(folder, column, **options):
    pq.write_table(pa.table({"image": column}), folder / "train.parquet")
    data = Images(str(folder), 2, label_column=None, test_split="train", **options)
    data.setup()
    return data.train_set.columns["image"]


FORMS = {
    "bytes and path": lambda: [{"bytes": b, "path": "x.png"} for b in files()],
    "bytes and no path": lambda: [{"bytes": b, "path": None} for b in files()],
    "bytes alone in a structure": lambda: [{"bytes": b} for b in files()],
    "bytes": lambda: list(files()),
    "large bytes": lambda: pa.array(list(files()), pa.large_binary()),
}


@pytest.mark.parametrize("form", FORMS)
def test_bytes(tmp_path, form):
    images = read(tmp_path, FORMS[form]())
    assert torch.equal(images, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))


@pytest.mark.parametrize("form", ["relative", "absolute", "large", "structure", "home"])
def test_paths(tmp_path, form, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    names = []
    for n, content in enumerate(files()):
        (tmp_path / "pictures" / f"{n}.png").write_bytes(content)
        root = {"absolute": f"{tmp_path}/", "home": "~/"}.get(form, "")
        names.append(f"{root}pictures/{n}.png")
    column = {
        "large": lambda: pa.array(names, pa.large_string()),
        "structure": lambda: [{"bytes": None, "path": name} for name in names],
    }.get(form, lambda: names)()
    monkeypatch.chdir("/")
    assert torch.equal(read(tmp_path, column), torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    (tmp_path / "pictures" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"row 2 \(2\.png\) is no picture that can be read: No su"):
        read(tmp_path, column)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (["https://a.org/0.png"] * 2, "not pictures but addresses\ndownload the pictures first"),
        ([[[1, 2], [3, 4]]] * 2, "not pictures but List"),
        ([1, 2], "not pictures but int64"),
        ([{"bytes": b"x", "size": 3}] * 2, "not pictures but structures of bytes, size"),
        ([{"bytes": None, "path": None}] * 2, "row 0: the picture is missing"),
        (pa.array([None, b"x"], pa.binary()), "row 0: the picture is missing"),
    ],
)
def test_other_columns_are_refused(tmp_path, column, told):
    with pytest.raises(ValueError, match=told):
        read(tmp_path, column)
