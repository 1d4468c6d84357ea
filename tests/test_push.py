import json

import pytest
import torch
from huggingface_hub import constants

import dlreview
from dlreview import push, saved
from dlreview.nn.vit import ViT
from dlreview.nn.word2vec import Word2Vec
from tests.hub_server import Hub

# huggingface_hub's own call of its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes")
USAGE = {"task": "classification", "data": "digits", "metrics": {"val/accuracy": 0.5}}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with Hub({"hf_ann": "ann", "hf_reader": "reader"}) as hub:
        hub.point_clients(monkeypatch, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", "hf_ann")
        yield hub


@pytest.fixture
def model(tmp_path):
    net = ViT(image_size=8, patch_size=4, width=12, depth=2, heads=3, num_classes=5)
    saved.save({"net": net}, tmp_path / "model", "card", USAGE)
    return tmp_path / "model"


def told(capsys, status, argv, expected):
    assert push.main([str(word) for word in argv]) == expected
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 3
    return err if status else out


def test_what_is_pushed_comes_back(hub, model, capsys):
    out = told(capsys, 0, [model, "ann/vit"], 0)
    assert f"{hub.url}/ann/vit/commit/" in out
    assert len(hub.repos["ann/vit"]["commits"]) == 2, "the hub's own and ours"
    files = hub.files("ann/vit")
    assert set(files) == {"README.md", "config.json", "model.safetensors", "usage.json"}
    for name in ("config.json", "model.safetensors", "usage.json"):
        assert files[name] == (model / name).read_bytes()
    card = files["README.md"].decode()
    for words in ('dlreview.load("ann/vit")', "library_name: dlreview", "license: apache-2.0"):
        assert words in card
    assert not hub.repos["ann/vit"]["private"]

    hub.seen.clear()
    net = dlreview.load("ann/vit")
    for name, tensor in dlreview.load(model).state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor)
    fetched = {path.rpartition("/")[2] for _, path in hub.seen if "/resolve/" in path}
    assert fetched == {"config.json", "model.safetensors"}

    out = told(capsys, 0, [model, "ann/vit"], 0)
    assert "nothing to do" in out and len(hub.repos["ann/vit"]["commits"]) == 2


def test_private_and_of_an_organisation(hub, model, capsys):
    told(capsys, 0, [model, "zoo/vit", "--private"], 0)
    assert hub.repos["zoo/vit"]["private"]


def test_for_another_library(hub, model, capsys):
    told(capsys, 0, [model, "ann/vit", "--format", "timm"], 0)
    files = hub.files("ann/vit")
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    assert "hf-hub:ann/vit" in files["README.md"].decode()
    assert json.loads(files["config.json"])["architecture"] == "vit_base_patch16_224"


@pytest.mark.parametrize("step", ["preupload", "batch", "put", "commit"])
def test_a_broken_upload_publishes_nothing_and_is_finished_later(step, hub, model, capsys):
    hub.failing.add(step)
    err = told(capsys, 1, [model, "ann/vit"], 1)
    assert "broke off and no file is published" in err
    assert hub.files("ann/vit") == {}
    hub.failing.clear()
    told(capsys, 0, [model, "ann/vit"], 0)
    assert len(hub.files("ann/vit")) == 4


def test_several_networks_replace_one(hub, model, tmp_path, capsys):
    networks = {"teacher": dlreview.load(model), "words": Word2Vec(3, 4)}
    saved.save(networks, tmp_path / "two", "card")
    told(capsys, 0, [model, "ann/net"], 0)
    told(capsys, 0, [tmp_path / "two", "ann/net", "--update"], 0)
    parts = {f"{n}/{f}" for n in networks for f in ("config.json", "model.safetensors")}
    assert set(hub.files("ann/net")) == {"README.md", "index.json", *parts}
    card = hub.files("ann/net")["README.md"].decode()
    assert 'words = dlreview.load("ann/net", "words")' in card
    assert type(dlreview.load("ann/net")) is ViT
    assert type(dlreview.load("ann/net", "words")) is Word2Vec

    flags = ("--network", "words", "--update")
    told(capsys, 0, [tmp_path / "two", "ann/net", *flags], 0)
    assert "index.json" not in hub.files("ann/net")
    assert type(dlreview.load("ann/net")) is Word2Vec, "the earlier index is gone"
    assert "nothing to do" in told(capsys, 0, [tmp_path / "two", "ann/net", *flags], 0)


def test_dry_run_sends_nothing(hub, model, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    out = told(capsys, 0, [model, "ann/vit", "--dry-run"], 0)
    size = (model / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in out and "dry run" in out
    assert hub.seen == []


@pytest.mark.parametrize("name", ["vit", "a/b/c", "/vit", "ann/", "ann/v it", "ann/-vit", ""])
def test_a_wrong_name_is_told_before_anything_is_read(name, hub, capsys):
    err = told(capsys, 2, ["not there", name], 2)
    assert "is no name of a repository" in err and hub.seen == []


def test_wrong_tokens_are_told_before_anything_is_read(hub, capsys, monkeypatch):
    err = told(capsys, 2, ["not there", "bob/vit"], 2)
    assert "the token is ann's" in err and "ann, zoo" in err
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert "can only read" in told(capsys, 2, ["not there", "reader/vit"], 2)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept the token" in told(capsys, 2, ["not there", "ann/vit"], 2)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    assert "there is no token" in told(capsys, 2, ["not there", "ann/vit"], 2)
    assert {path for _, path in hub.seen} == {"/api/whoami-v2"}


def test_existing_repositories(hub, model, capsys):
    hub.add("ann/other", {"README.md": b"mine"})
    err = told(capsys, 2, [model, "ann/other"], 2)
    assert "exists and holds other files" in err and "--update" in err
    assert hub.files("ann/other") == {"README.md": b"mine"}
    told(capsys, 0, [model, "ann/other", "--update"], 0)
    assert len(hub.files("ann/other")) == 4
    hub.add("ann/open")
    assert "is public" in told(capsys, 2, [model, "ann/open", "--private"], 2)


def test_other_mistakes(hub, model, capsys):
    assert "no such folder" in told(capsys, 2, ["not there", "ann/vit"], 2)
    err = told(capsys, 2, [model, "ann/vit", "--format", "tim"], 2)
    assert "did you mean timm? (valid: dlreview, timm, transformers)" in err
    assert "usage:" in told(capsys, 2, [model], 2)
    assert "ann/vit" not in hub.repos


def test_a_hub_that_is_not_there(model, capsys, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    err = told(capsys, 1, [model, "ann/vit"], 1)
    assert "http://127.0.0.1:9 cannot be reached" in err
