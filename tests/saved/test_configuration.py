"""A configuration is a recipe's section `net:`; an earlier version's is brought up to date."""

import json

import pytest
import torch
from torch import nn

import dlreview
from dlreview import saved
from dlreview.nn.lstm import BiLSTM
from dlreview.nn.norm import LayerNorm
from dlreview.nn.tagger import Spelling
from dlreview.nn.vit import ViT
from dlreview.saved import earlier
from tests.parity import scramble
from tests.saved.states import assert_equal_states

VIT = {"image_size": 8, "patch_size": 4, "width": 12, "depth": 2, "heads": 3, "num_classes": 5}


def test_the_config_is_the_recipes_section():
    config = json.loads(json.dumps(saved.config_of(ViT(**VIT))))
    assert set(config) == {"class_path", "init_args"}
    assert config["class_path"] == "dlreview.nn.vit.ViT"
    assert config["init_args"].items() >= VIT.items()
    assert saved.config_of(saved.build(config)) == config


def test_a_folder_of_an_earlier_version_loads(tmp_path):
    """config.json with the class's earlier name beside the weights, and nothing else."""
    parts = {"spelling": Spelling(5, 3, 2), "core": BiLSTM(8, 5)}
    sizes = {"vocabulary_size": 7, "num_tags": 3, "word_width": 4, "dropout": 0.1}
    arguments = sizes | {name: saved.config_of(net) for name, net in parts.items()}
    config = {"class_path": "dlreview.nn.tagger.Tagger", "init_args": arguments}
    net = scramble(saved.build(config)).float()
    (tmp_path / "config.json").write_text(json.dumps(config))
    saved.write_weights(net, tmp_path / "model.safetensors")
    again = dlreview.load(tmp_path)
    assert saved.config_of(again)["init_args"] == arguments
    assert_equal_states(again, net)


def test_a_class_that_was_renamed_is_found_in_every_section(monkeypatch):
    monkeypatch.setitem(earlier.RENAMED, "dlreview.nn.norm.Norm", "dlreview.nn.norm.LayerNorm")
    monkeypatch.setitem(earlier.RENAMED, "dlreview.nn.vit.VisionTransformer", "dlreview.nn.vit.ViT")
    norm = {"class_path": "dlreview.nn.norm.Norm", "init_args": {"width": 12, "eps": 0.5}}
    config = {"class_path": "dlreview.nn.vit.VisionTransformer", "init_args": VIT | {"norm": norm}}
    net = saved.build(config)
    assert type(net) is ViT and type(net.norm) is LayerNorm and net.norm.eps == 0.5


def test_arguments_that_changed_are_translated(monkeypatch):
    def rename(arguments):
        if "layers" in arguments:
            arguments["depth"] = arguments.pop("layers")
        return arguments

    monkeypatch.setitem(earlier.CHANGED, "dlreview.nn.vit.ViT", rename)
    old = {**VIT, "layers": 3}
    del old["depth"]
    config = {"class_path": "dlreview.nn.vit.ViT", "init_args": old}
    assert saved.build(config).depth == 3
    assert config["init_args"] is old and "layers" in old, "what was read is not changed"
    assert saved.build(saved.config_of(ViT(**VIT))).depth == 2


def test_arguments_that_cannot_be_translated_give_one_line(monkeypatch):
    monkeypatch.setitem(earlier.CHANGED, "dlreview.nn.vit.ViT", lambda arguments: arguments["x"])
    with pytest.raises(ValueError, match=r"^config.json: dlreview.nn.vit.ViT: KeyError\('x'\)$"):
        saved.build({"class_path": "dlreview.nn.vit.ViT", "init_args": VIT})


def test_networks_are_built_without_drawing_their_weights():
    before = torch.get_rng_state()
    with saved.NoStart():
        nn.Linear(3, 4)
        assert torch.equal(nn.init.normal_(torch.ones(2)), torch.ones(2))
    assert torch.equal(torch.get_rng_state(), before)
