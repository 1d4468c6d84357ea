"""Networks are found in model folders, runs and folders of several."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import dlreview
from dlreview import saved
from dlreview.nn.vit import ViT
from dlreview.nn.word2vec import Word2Vec
from tests.saved.states import assert_equal_states

VIT = {"image_size": 8, "patch_size": 4, "width": 12, "depth": 2, "heads": 3, "num_classes": 5}


@pytest.fixture
def folder(tmp_path):
    """A sound model folder."""
    torch.manual_seed(0)
    saved.save({"net": ViT(**VIT)}, tmp_path / "model", "card", {"weights": "averaged"})
    return tmp_path / "model"


def test_weights_from_says_which(folder):
    assert dlreview.load(folder).weights_from == f"{folder}/model.safetensors: averaged"


def test_a_run_gives_its_model(folder):
    (folder.parent / "config.yaml").write_text("{}")
    assert_equal_states(dlreview.load(folder.parent), dlreview.load(folder))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net.", "module.net._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(prefix, folder):
    net, file = dlreview.load(folder), folder / saved.WEIGHTS
    save_file({prefix + name: tensor for name, tensor in load_file(file).items()}, file)
    assert_equal_states(dlreview.load(folder), net)


def test_a_compiled_part_is_found(folder):
    net, file = dlreview.load(folder), folder / saved.WEIGHTS
    named = {k.replace("encoder.", "encoder._orig_mod."): v for k, v in load_file(file).items()}
    save_file(named, file)
    assert_equal_states(dlreview.load(folder), net)


def test_what_is_not_there(folder, tmp_path, monkeypatch):
    with pytest.raises(OSError, match="no such folder"):
        dlreview.load(tmp_path / "a" / "b")
    with pytest.raises(OSError, match="no such folder"):
        dlreview.load("vit")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="folder; did you mean model"):
        dlreview.load("modle")
    (tmp_path / "runs" / "0").mkdir(parents=True)
    (tmp_path / "runs" / "0" / "config.yaml").touch()
    with pytest.raises(OSError, match="runs/1: there is no such folder"):
        dlreview.load("runs/1")  # not on the hub: the folder runs is here
    with pytest.raises(OSError, match=r"no config.json in it; runs in it: 0"):
        dlreview.load("runs")
    with pytest.raises(ValueError, match="is a file"):
        dlreview.load(folder / saved.CONFIG)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match=r"no config.json"):
        dlreview.load(tmp_path / "empty")
    (folder / saved.WEIGHTS).unlink()
    with pytest.raises(OSError, match=r"no model.safetensors"):
        dlreview.load(folder)


@pytest.fixture
def several(tmp_path):
    """Two networks, and the folder that holds them."""
    torch.manual_seed(0)
    networks = {"teacher": ViT(**VIT), "student": Word2Vec(7, 4)}
    saved.save(networks, tmp_path / "run" / "model", "card", {"weights": "last"})
    return networks, tmp_path / "run"


def test_the_main_network_or_the_named_one(several):
    networks, run = several
    for path in (run, run / "model"):
        assert saved.names(path) == ["teacher", "student"]
        assert_equal_states(dlreview.load(path), networks["teacher"])
        for name, net in networks.items():
            again = dlreview.load(path, name)
            assert type(again) is type(net)
            assert_equal_states(again, net)
            file = run / "model" / name / "model.safetensors"
            assert again.weights_from == f"{file}: last"
            assert saved.config_in(path, name) == saved.config_of(net)
    assert saved.locate(run, ()) == run / "model", "a run with an index is finished"


def test_one_network_is_called_net(folder):
    assert saved.names(folder) == ["net"]
    assert_equal_states(dlreview.load(folder, "net"), dlreview.load(folder))


def test_an_unknown_name_is_told_with_the_known_ones(several, folder):
    words = r"network 'studnt' is unknown; did you mean student\? \(valid: student, teacher\)$"
    with pytest.raises(ValueError, match=words):
        dlreview.load(several[1], "studnt")
    with pytest.raises(ValueError, match=r"network 'discriminator' is unknown; valid: net$"):
        dlreview.load(folder, "discriminator")


def test_a_network_that_the_index_names_but_is_not_there(several):
    (several[1] / "model" / "student" / saved.WEIGHTS).unlink()
    assert dlreview.load(several[1])
    with pytest.raises(OSError, match=r"student: there is no model.safetensors in it"):
        dlreview.load(several[1], "student")
