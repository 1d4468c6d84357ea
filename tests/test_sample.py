import json

import numpy as np
import pytest
import torch
from PIL import Image

from dlreview import sample, saved
from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.time_embedding import ClassLabel
from dlreview.nn.vit import ViT
from dlreview.samplers import Schedule
from tests.parity import scramble

SETTINGS = {
    "schedule": Schedule.cosine(50).to_diffusers(),
    "prediction": "eps",
    "num_classes": 5,
    "null_class": 5,
    "guidance": 2.0,
    "sampler": "ddim",
    "steps": 3,
    "clip": 1.0,
}
IMAGE = {"channels": 1, "height": 8, "width": 8, "range": [-1.0, 1.0]}
NAMES = ["ant", "bee", "cat", "dog", "eel"]
USAGE = {"task": "diffusion", "settings": SETTINGS, "image": IMAGE, "class_names": NAMES}


def unet(folder, usage=USAGE, num_classes=6):
    label = ClassLabel(num_classes) if num_classes else None
    net = DiffusionUNet(1, [4, 8], [False, True], label, groups=2, blocks_per_level=1)
    saved.save({"net": scramble(net).float()}, folder, "card", usage)
    return folder


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return unet(tmp_path / "model")


def run(*argv):
    assert sample.main([str(word) for word in argv]) == 0


def told(capsys, *argv):
    """Return what a refused command says; it must be short."""
    assert sample.main([str(word) for word in argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("dlreview.sample: ") and len(err.splitlines()) <= 3
    return err


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture)


def test_a_grid_and_single_files(model, tmp_path, capsys):
    run(model, "--out", "out", "--count", 7)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"grid.png", *(f"000{n}.png" for n in range(7))}
    assert pixels(tmp_path / "out" / "0000.png").shape == (8, 8)
    out = capsys.readouterr().out
    assert "7 images, ddim, 3 steps, seed 0, guidance 2" in out and "out/grid.png" in out
    run(model)
    assert "25 images" in capsys.readouterr().out, "five of each class"
    assert (tmp_path / "samples" / "0" / "grid.png").is_file()
    run(model)
    assert (tmp_path / "samples" / "1" / "grid.png").is_file()


def test_every_flag_does_what_it_says(model, tmp_path):
    def drawn(*flags):
        folder = tmp_path / "-".join(map(str, ("s", *flags)))
        run(model, "--out", folder, "--count", 5, *flags)
        return np.stack([pixels(folder / f"{n:04d}.png") for n in range(5)])

    plain = drawn()
    assert (plain == drawn("--seed", 0)).all()
    assert (plain[2] == drawn("--class=cat")[2]).all(), "classes come in turn"
    assert (drawn("--class", "cat") == drawn("--class", "2")).all()
    for flags in (
        ("--seed", 1),
        ("--class", "dog"),
        ("--guidance", 5),
        ("--steps", 7),
        ("--sampler", "ddpm"),
    ):
        assert (plain != drawn(*flags)).any(), flags
    nothing = drawn("--guidance", 0, "--class", "ant")
    assert (nothing == drawn("--guidance=0.0", "--class", "bee")).all(), "0 ignores the class"
    assert (plain == drawn("--batch", 2)).all()


def test_a_network_without_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    alone = SETTINGS | {"num_classes": None, "null_class": None, "guidance": 1.0}
    model = unet(tmp_path / "model", USAGE | {"settings": alone}, None)
    run(model, "--sampler", "ddpm", "--count", 2, "--out", "out")
    assert "2 images, ddpm, 50 steps, seed 0:" in capsys.readouterr().out
    assert "trained without classes" in told(capsys, model, "--class", "3")
    assert "trained without classes" in told(capsys, model, "--guidance", "3")


def test_mistakes(model, tmp_path, capsys):
    for words, expected in {
        (model, "--clas", "3"): "did you mean --class?",
        (model, "--class", "bea"): "did you mean bee? (valid: ant, bee, cat, dog, eel)",
        (model, "--class", "5"): "'5' is no class",
        (model, "--steps", "51"): "valid: 1 to 50",
        (model, "--steps", "0"): "a whole number from 1",
        (model, "--guidance", "much"): "valid: a number",
        (model, "--guidance", "nan"): "valid: a number",
        (model, "--sampler", "dimm"): "valid: ddim, ddpm",
        (model, "--count"): "needs a value",
        (model, "picture.png"): "too many words",
        (model, "--device", "martian"): "--device: got 'martian'",
        ("--count", "3", model): "the network comes first",
        ("nowhere",): "nowhere: there is no such folder",
    }.items():
        assert expected in told(capsys, *words), words
    assert not (tmp_path / "samples").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "is not empty" in told(capsys, model, "--out", "full")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"task": None}, "does not say how it is called"),
        ({"task": "difusion"}, "did you mean diffusion?"),
        ({"task": "../../etc"}, "is unknown"),
    ],
)
def test_a_network_for_something_else(change, expected, model, capsys):
    (model / saved.USAGE).write_text(json.dumps(USAGE | change))
    assert expected in told(capsys, model)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": None},
        {"settings": SETTINGS | {"schedule": {"num_train_timesteps": 10**9}}},
        {"settings": SETTINGS | {"schedule": {"num_train_timesteps": 9, "beta_schedule": "x"}}},
        {"settings": SETTINGS | {"schedule": []}},
        {"settings": SETTINGS | {"prediction": "y"}},
        {"settings": SETTINGS | {"guidance": "2"}},
        {"image": None},
        {"image": IMAGE | {"height": 10**9}},
        {"image": IMAGE | {"width": "8"}},
    ],
)
def test_damaged_usage_is_told_in_a_line(change, model, capsys):
    (model / saved.USAGE).write_text(json.dumps(USAGE | change))
    assert sample.main([str(model)]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "usage.json" in err


def test_a_classifier_names_what_pictures_show(tmp_path, capsys):
    net = scramble(ViT(8, 4, 12, 2, 3, 5, image_channels=1)).float()
    usage = {"task": "classification", "image": IMAGE, "class_names": NAMES}
    saved.save({"net": net}, tmp_path / "model", "card", usage)
    picture = torch.randint(256, (8, 8), dtype=torch.uint8)
    Image.fromarray(picture.numpy()).save(tmp_path / "one.png")
    Image.fromarray(picture.numpy()).convert("RGB").resize((20, 30)).save(tmp_path / "two.jpg")
    run(tmp_path / "model", tmp_path / "one.png", tmp_path / "two.jpg", "--top", 3)
    network, first, second = capsys.readouterr().out.splitlines()
    share = net.eval()(picture[None, None] / 127.5 - 1)[0].softmax(0)
    best = share.argsort(descending=True)[:3].tolist()
    assert network == f"network: {tmp_path}/model/model.safetensors"
    assert first == "one.png  " + "  ".join(f"{NAMES[k]} {share[k]:.3f}" for k in best)
    assert second.startswith("two.jpg  ")

    (tmp_path / "three.png").write_text("no picture")
    err = told(capsys, tmp_path / "model", tmp_path / "one.png", tmp_path / "three.png")
    assert "three.png: is no picture" in err
    assert "usage:" in told(capsys, tmp_path / "model")


def test_a_file_beside_the_network_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = scramble(ViT(8, 4, 12, 2, 3, 5, image_channels=1)).float()
    usage = {"task": "classification", "image": IMAGE}
    for name, shade in (("here.png", 30), ("there.png", 200)):
        Image.new("L", (8, 8), shade).save(tmp_path / name)
    files = {"here.png": tmp_path / "there.png", "example.png": tmp_path / "there.png"}
    saved.save({"net": net}, tmp_path / "run" / "model", "card", usage, files=files)

    def answer(*words):
        run(*words)
        return [line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]]

    beside, there, here = answer("run", "example.png", "there.png", "here.png")
    assert beside == there != here, "the current folder comes first"
    (tmp_path / "run" / "secret.png").write_bytes((tmp_path / "there.png").read_bytes())
    assert "is no picture" in told(capsys, "run", "../secret.png"), "beside the network only"


def test_one_of_several_networks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nets = {n: scramble(ViT(8, 4, 12, 2, 3, 5, image_channels=1), seed).float()
            for seed, n in enumerate(("teacher", "student"))}  # fmt: skip
    Image.new("L", (8, 8), 100).save(tmp_path / "x.png")
    saved.save(nets, tmp_path / "m", "card", {"task": "classification", "image": IMAGE})
    image = torch.full((1, 1, 8, 8), 100 / 127.5 - 1)
    for name, flags in (("teacher", ()), ("teacher", ("--network", "teacher")),
                        ("student", ("--network=student",))):  # fmt: skip
        run("m", "x.png", "--top", 1, *flags)
        network, line = capsys.readouterr().out.splitlines()
        share, label = nets[name].eval()(image)[0].softmax(0).max(0)
        assert network == f"network: m/{name}/model.safetensors"
        assert line == f"x.png  {label} {share:.3f}"
    err = told(capsys, "m", "x.png", "--network", "techer")
    assert "--network: 'techer' is unknown" in err and "valid: student, teacher" in err


def test_help(capsys):
    assert sample.main(["--help"]) == 0
    out = capsys.readouterr().out
    for words in ("diffusion:", "--guidance W", "classification:", "--top N"):
        assert words in out
