import numpy as np
import pytest
import torch
from PIL import Image

from dlreview import contrast
from dlreview.nn.image_kernels import filter_image, image_kernels


@pytest.fixture
def picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    squares = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
    Image.fromarray(squares.repeat(4, 0).repeat(5, 1)).save("picture.png")
    return tmp_path


def told(capsys, *words):
    assert contrast.main([*words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("dlreview.contrast: ") and len(err.splitlines()) <= 3
    return err


def save_result(name):
    with Image.open("picture.png") as file:
        image = torch.from_numpy(np.asarray(file).copy()).float()
    result = filter_image(image, image_kernels()[name]).clamp(0, 255).round()
    Image.fromarray(result.to(torch.uint8).numpy()).save(f"{name}.png")


def test_the_exams_answer(picture, capsys):
    assert contrast.main(["kernels", "picture.png"]) == 0
    _, *answers, last = capsys.readouterr().out.splitlines()
    verdicts = [line.split("  ")[-1].strip().rpartition(", ")[0] for line in answers]
    assert verdicts[:3] == ["sharpen", "edge", "left sobel"]
    assert verdicts[3].startswith("none of these (nearest: "), "bottom sobel is not given"
    assert last == "picture: contrasts/kernels/0/kernels.png"
    with Image.open("contrasts/kernels/0/kernels.png") as sheet:
        assert np.asarray(sheet).shape[2] == 3 and np.asarray(sheet).std() > 10


def test_pictures_of_the_users_own(picture, capsys):
    save_result("edge")
    save_result("right sobel")
    words = ["kernels", "picture.png", "edge.png", "right sobel.png", "--out", "out"]
    assert contrast.main(words) == 0
    out = capsys.readouterr().out
    assert "edge.png         edge, difference" in out and "right sobel.png  none of these" in out
    words = ["kernels", "picture.png", "right sobel.png", "--kernels", "left sobel, right sobel"]
    assert contrast.main(words) == 0
    assert "right sobel.png  right sobel, difference" in capsys.readouterr().out


def test_a_picture_without_edges_is_drawn_too(picture, capsys):
    Image.new("L", (9, 7), 128).save("flat.png")
    assert contrast.main(["kernels", "flat.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "picture of the edge" in lines[2] and "edge, left sobel give the same output" in lines[2]
    assert lines[-1] == "picture: contrasts/kernels/0/kernels.png"


def test_mistakes(picture, capsys):
    Image.new("L", (9, 9)).save("small.png")
    Image.new("L", (40, 24)).save("black.png")
    Image.new("L", (2, 9)).save("thin.png")
    (picture / "text.png").write_text("no picture")
    for words, expected in {
        ("kernel",): "did you mean kernels?",
        ("kernels", "text.png"): "text.png: is no picture",
        ("kernels", "picture.png", "small.png"): "size 24 × 40, got 9 × 9",
        ("kernels", "black.png", "black.png"): "give the same output",
        ("kernels", "thin.png"): "at least 3 × 3 pixels, got 9 × 2",
        ("kernels", "--kernels", "edge,sharpn"): "did you mean sharpen?",
        ("kernels", "--out", "."): "is not empty",
    }.items():
        assert expected in told(capsys, *words), words
    assert not (picture / "contrasts").exists()


def test_help(capsys):
    assert contrast.main(["--help"]) == 0
    assert "kernels [PICTURE [OUTPUT ...]]" in capsys.readouterr().out
