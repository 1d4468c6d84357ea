"""Folders and files as people have them: read, or refused with the reason."""

import io
import tarfile
import zipfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dlreview.data.contents import why_no_cache, why_no_column
from dlreview.data.corpus import Corpus
from dlreview.data.images import Images


def png(mode="RGB", size=(6, 5), color=7, form="PNG", **options):
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, form, **options)
    return file.getvalue()


def animation():
    file = io.BytesIO()
    first, second = (Image.new("RGB", (6, 5), (red, 0, 0)) for red in (10, 200))
    first.save(file, "GIF", save_all=True, append_images=[second])
    return file.getvalue()


def palette():
    picture, file = Image.new("P", (6, 5), 1), io.BytesIO()
    picture.putpalette([0, 0, 0, 200, 10, 30] + [0] * 762)
    picture.save(file, "PNG")
    return file.getvalue()


def write(folder, content, end="png", rows=4):
    """Write one content as several files of a class."""
    (folder / "a").mkdir(parents=True, exist_ok=True)
    for n in range(rows):
        (folder / "a" / f"{n}.{end}").write_bytes(content)
    return folder


def opened(path, **options):
    data = Images(str(path), 2, **{"label_column": None, "test_split": 0.25} | options)
    data.setup()
    return data


@pytest.mark.parametrize(
    ("content", "end", "pixel"),
    [
        (animation(), "gif", [10, 0, 0]),
        (png("CMYK", color=(0, 255, 255, 0), form="JPEG"), "jpg", [255, 0, 0]),
        (palette(), "png", [200, 10, 30]),
        (png(size=(1, 1)), "png", [7, 0, 0]),
        (png(form="WEBP", lossless=True), "webp", [7, 0, 0]),
        (png(), "PNG", [7, 0, 0]),
    ],
    ids=["animation", "cmyk", "palette", "one pixel", "webp", "capital ending"],
)
def test_pictures_of_other_kinds(tmp_path, content, end, pixel):
    data = opened(write(tmp_path, content, end))
    assert data.train_set.columns["image"][0, :, 0, 0].tolist() == pixel


@pytest.mark.parametrize("end", ["heic", "svg", "NEF"])
def test_pictures_that_cannot_be_read(tmp_path, end):
    ending = end.lower()
    told = rf"no file that can be read, but 4 \.{ending}\nconvert the pictures to PNG or JPEG"
    with pytest.raises(ValueError, match=told):
        opened(write(tmp_path, b"x", end))


def test_pictures_that_are_left_out_are_counted(tmp_path, capsys):
    write(write(tmp_path, png()), b"x", "heic", rows=3)
    assert len(opened(tmp_path).train_set) == 3
    assert "left out 3 .heic; convert them to PNG or JPEG" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", r"row 0 \(0\.png\) is an empty file"),
        (b"hello", r"row 0 \(0\.png\) is no picture"),
        (png()[:50], r"row 0 \(0\.png\) is a damaged picture"),
        (png("1", (15_000, 15_000), 0), r"row 0 \(0\.png\) is too large: Image size"),
    ],
    ids=["empty", "text", "damaged", "too large"],
)
def test_faulty_files(tmp_path, content, told, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000_000)
    with pytest.raises(ValueError, match=told):
        opened(write(tmp_path, content))


def test_folders_that_hold_no_pictures(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the folder is empty"):
        opened(tmp_path / "empty")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "LICENCE").write_text("x")
    (tmp_path / "odd" / "a.xyz").write_text("x")
    with pytest.raises(ValueError, match=r"but 1 without an ending, 1 \.xyz\nvalid: pictures"):
        opened(tmp_path / "odd")
    write(tmp_path / "both", png(), rows=2)
    pq.write_table(pa.table({"x": [1, 2, 3, 4]}), tmp_path / "both" / "train.parquet")
    told = r"no column 'image'; it has x\nthe folder holds pictures and tables \(2 \.png, 1 \.par"
    with pytest.raises(ValueError, match=told):
        opened(tmp_path / "both")
    pictures = write(tmp_path / "captions", png(), rows=2)
    (pictures / "metadata.csv").write_text("file_name,text\na/0.png,x\na/1.png,y\n")
    assert why_no_column(pictures, "image") == "", "datasets reads both"


def test_a_folder_with_the_name_of_a_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("csv"), png())
    assert len(opened("csv").train_set) == 3


def test_one_folder_of_pictures_has_no_labels(tmp_path):
    write(tmp_path / "set" / "train" / "cat", png(), rows=2)
    with pytest.raises(
        ValueError, match="has no column 'label'; it has image\nlabels are the names"
    ):
        opened(tmp_path / "set", label_column="label")


def test_archives_and_single_files(tmp_path):
    packed = tmp_path / "set.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for n in range(4):
            archive.writestr(f"train/a/{n}.png", png())
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(packed, "set.zip")
    for path, told in {
        packed: "is an archive; unpack it and give the folder",
        tmp_path / "set.tar.gz": "is an archive",
        write(tmp_path / "one", png()) / "a" / "0.png": "is one picture; give the folder",
    }.items():
        with pytest.raises(ValueError, match=told):
            opened(path)
    with pytest.raises(ValueError, match="is an archive"):
        Corpus(str(packed)).setup()
    (tmp_path / "zipped").mkdir()
    packed.rename(tmp_path / "zipped" / "set.zip")
    assert opened(tmp_path / "zipped").image_shape == (3, 5, 6), "datasets looks into the archive"


def test_tables_of_text(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "one two,1\nthree,0\n" * 4)
    data = Corpus(str(tmp_path), 2, min_count=1, test_split=0.25)
    data.setup()
    assert set(data.vocabulary.words) == {"one", "two", "three"}
    with pytest.raises(ValueError, match=r"train.csv' is a table; give the folder that holds it"):
        Corpus(str(tmp_path / "train.csv"), 2, min_count=1).setup()
    with pytest.raises(ValueError, match=r"no column 'image'; it has text, label$"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["csv", "text"])
def test_a_folder_is_not_the_reader_of_its_name(tmp_path, monkeypatch, name):
    """In `datasets` load_dataset("csv") reads all files of the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "train.csv").write_text("text\n" + "one two\nthree\n" * 4)
    (tmp_path / "other.csv").write_bytes(png())
    data = Corpus(name, 2, min_count=1, test_split=0.25)
    data.setup()
    assert set(data.vocabulary.words) == {"one", "two", "three"}


def configurations(folder):
    """A set with two configurations, and that of the hub that describes them."""
    entries = []
    for name in ("small", "large"):
        (folder / name).mkdir()
        (folder / name / "train.csv").write_text("text\n" + f"{name} word\n" * 4)
        entries.append(f"- config_name: {name}\n  data_files: {name}/train.csv\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(entries)}---\n")
    return str(folder)


def test_configurations(tmp_path):
    path = configurations(tmp_path)
    options = {"batch_size": 2, "min_count": 1, "test_split": 0.25}
    data = Corpus(path, **options, config="large")
    data.setup()
    assert data.vocabulary.words == ["large", "word"]
    with pytest.raises(ValueError, match=r"several configurations\nset config to one of small, l"):
        Corpus(path, **options).setup()
    with pytest.raises(ValueError, match=r"config of .* 'lrge' is unknown; did you mean 'large'"):
        Corpus(path, **options, config="lrge").setup()
    with pytest.raises(ValueError, match="config of 'digits' must be null, got 'large'"):
        Images(config="large")
    with pytest.raises(ValueError, match="config of 'python-reference' must be null"):
        Corpus(config="large").setup()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    cache = str(tmp_path / "file" / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("text\none\n")
    told = r"cannot be written: Not a directory\nset HF_DATASETS_CACHE to a folder"
    with pytest.raises(OSError, match=told):
        Corpus(str(tmp_path / "set"), 1).setup()
    assert why_no_cache(str(tmp_path / "new" / "cache")) == ""
