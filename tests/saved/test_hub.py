"""Networks come from a hub: the files of the wanted network alone, and faults in one line."""

import pytest
import torch
from PIL import Image

import dlreview
from dlreview import sample, saved
from dlreview.nn.vit import ViT
from dlreview.nn.word2vec import Word2Vec
from tests.hub_server import Hub

IMAGE = {"channels": 1, "height": 8, "width": 8, "range": [-1.0, 1.0]}
USAGE = {"task": "classification", "image": IMAGE}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with Hub() as hub:
        hub.point_clients(monkeypatch, tmp_path / "cache")
        yield hub


def fetched(hub):
    return {path.partition("/resolve/")[2].partition("/")[2] for _, path in hub.seen} - {""}


def test_the_files_of_one_network_are_fetched(hub, tmp_path):
    networks = {"teacher": ViT(8, 4, 12, 1, 3), "student": Word2Vec(3, 4)}
    saved.save(networks, tmp_path / "m", "card", USAGE)
    hub.add_folder("ann/two", tmp_path / "m")
    net = dlreview.load("ann/two", "student")
    for name, tensor in networks["student"].state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor)
    assert fetched(hub) == {"index.json", "student/config.json", "student/model.safetensors"}
    hub.seen.clear()
    assert type(dlreview.load("ann/two")) is ViT
    assert fetched(hub) == {"teacher/config.json", "teacher/model.safetensors"}
    with pytest.raises(ValueError, match=r"'x' is unknown; valid: student, teacher$"):
        dlreview.load("ann/two", "x")


def test_a_picture_beside_the_network_is_found(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8), 100).save(tmp_path / "x.png")
    networks = {"net": ViT(8, 4, 12, 1, 3, 5, image_channels=1)}
    saved.save(networks, tmp_path / "m", "card", USAGE, files={"example.png": tmp_path / "x.png"})
    hub.add_folder("ann/vit", tmp_path / "m")
    assert sample.main(["ann/vit", "example.png"]) == 0
    by_hub = capsys.readouterr().out.splitlines()[-1]
    assert sample.main([str(tmp_path / "m"), "x.png"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[1:] == by_hub.split()[1:]
    assert sample.main(["ann/vit", "none.png"]) == 2
    assert "none.png: is no picture" in capsys.readouterr().err


def test_a_hub_that_has_it_not(hub):
    with pytest.raises(OSError, match=r"has no such repository") as caught:
        dlreview.load("ann/none")
    assert "\n" not in str(caught.value)
    hub.add("ann/other", {"README.md": b"mine"})
    with pytest.raises(OSError, match=r"has no config.json and no index.json"):
        dlreview.load("ann/other")
