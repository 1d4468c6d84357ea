"""A run that is not finished gives its networks and its usage from the last checkpoint."""

import json

import pytest
import torch

import dlreview
from dlreview import export, sample, saved, usage
from dlreview.nn.vit import ViT
from dlreview.nn.word2vec import Word2Vec
from tests.parity import scramble
from tests.saved.states import assert_equal_states

VIT = {"image_size": 8, "patch_size": 4, "width": 12, "depth": 2, "heads": 3, "num_classes": 5}
WORDS = ["ant", "bee", "cat", "dog", "eel"]


def state_of(networks):
    return {f"{n}.{k}": x for n, net in networks.items() for k, x in net.state_dict().items()}


def write(run, networks, **entries):
    (run / "checkpoints").mkdir(parents=True)
    state = state_of(networks) | {"other.weight": torch.ones(1)}
    content = {"state_dict": state, "global_step": 7} | entries
    torch.save(content, run / "checkpoints" / "last.ckpt")


def entry(networks, called):
    return {"networks": {n: saved.config_of(net) for n, net in networks.items()}, "usage": called}


@pytest.fixture
def networks():
    return {"net": scramble(Word2Vec(7, 4)).float(), "student": scramble(ViT(**VIT)).float()}


@pytest.mark.parametrize("averaged", [False, True])
def test_networks_and_usage_come_from_the_checkpoint_alone(averaged, networks, tmp_path):
    kind = "averaged" if averaged else "last"
    more = {"averaging_state": {"n_averaged": torch.tensor(3)}} if averaged else {}
    write(tmp_path, networks, dlreview=entry(networks, {"task": "words", "words": WORDS}), **more)
    assert saved.names(tmp_path) == ["net", "student"]
    assert_equal_states(dlreview.load(tmp_path), networks["net"])
    again = dlreview.load(tmp_path, "student")
    assert_equal_states(again, networks["student"])
    assert again.weights_from.endswith(f"last.ckpt: {kind}, step 7")
    assert usage.read(tmp_path) == {"task": "words", "words": WORDS, "weights": kind}
    with pytest.raises(ValueError, match=r"'techer' is unknown; valid: net, student$"):
        dlreview.load(tmp_path, "techer")


def test_sample_and_export_work_on_it(networks, tmp_path, capsys):
    called = {"task": "words", "words": WORDS}
    write(tmp_path / "run", networks, dlreview=entry(networks, called))
    assert sample.main([str(tmp_path / "run"), "bee", "--top", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("bee  ")
    assert export.main([str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert saved.names(tmp_path / "out") == ["net", "student"]
    assert usage.read(tmp_path / "out") == called | {"weights": "last"}


def old_run(run, section, net):
    write(run, {"net": net})
    recipe = {"model": {"class_path": "x", "init_args": {"net": section}}}
    (run / "config.yaml").write_text(json.dumps(recipe))


def test_a_checkpoint_of_an_earlier_version_loads_by_its_recipe(tmp_path, capsys):
    net = scramble(ViT(**VIT)).float()
    old_run(tmp_path, saved.config_of(net), net)
    assert_equal_states(dlreview.load(tmp_path), net)
    assert saved.names(tmp_path) == ["net"] and usage.read(tmp_path) == {}
    assert sample.main([str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "does not say how it is called" in err and len(err.splitlines()) <= 2


def test_one_that_began_as_pretrained_must_be_finished(tmp_path):
    section = {"class_path": "dlreview.reference.Pretrained", "init_args": {"path": "a/b"}}
    old_run(tmp_path, section, ViT(**VIT))
    with pytest.raises(ValueError, match="began as Pretrained; finish the run first"):
        dlreview.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.ones(3), "has no state_dict"),
        ({"state_dict": {"net.x": 3}}, "has no state_dict of tensors"),
        ({"state_dict": {}, "dlreview": []}, "expected networks and usage"),
        ({"state_dict": {}, "dlreview": {"networks": {}, "usage": {}}}, "expected networks"),
        ({"state_dict": {}, "dlreview": {"networks": {"net": {}}}}, "expected networks and usage"),
        ({"state_dict": {}, "dlreview": {"networks": {"net": {}}, "usage": {}}}, "class_path"),
        ({"state_dict": {}}, "no section model.init_args.net"),
    ],
)
def test_a_damaged_checkpoint_gives_one_line(content, words, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "config.yaml").write_text("{model: {}}")
    with pytest.raises(ValueError, match=words) as caught:
        dlreview.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_gives_one_line(networks, tmp_path):
    write(tmp_path, networks)
    file = tmp_path / "checkpoints" / "last.ckpt"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"last.ckpt: (damaged|cannot be read)"):
        dlreview.load(tmp_path)
