"""What is written comes back bit for bit: one network flat, several beside an index."""

import json

import pytest
import torch
from safetensors.torch import load_file

import dlreview
from dlreview import saved
from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.lstm import LSTM, BiLSTM
from dlreview.nn.norm import RMSNorm
from dlreview.nn.recurrent_language_model import RecurrentLanguageModel
from dlreview.nn.rnn import RNN
from dlreview.nn.tagger import RecurrentTagger, Spelling
from dlreview.nn.time_embedding import FourierTime
from dlreview.nn.transformer import Block
from dlreview.nn.vit import ViT
from dlreview.nn.word2vec import Word2Vec
from tests.parity import scramble
from tests.saved.states import assert_equal_states

VIT = {"image_size": 8, "patch_size": 4, "width": 12, "depth": 2, "heads": 3, "num_classes": 5}
NETWORKS = {
    "vit": lambda: ViT(**VIT),
    "vit with parts": lambda: ViT(**VIT, block=Block(12, 3, layer_scale=0.5), norm=RMSNorm(12)),
    "unet": lambda: DiffusionUNet(1, [4, 8], [False, True], groups=2, time=FourierTime(8)),
    "lstm": lambda: BiLSTM(3, 5, 2),
    "word2vec": lambda: Word2Vec(7, 4),
    "language model": lambda: RecurrentLanguageModel(7, RNN(4, 5, biases=1), 0.1),
    "tied language model": lambda: RecurrentLanguageModel(7, LSTM(4, 4), tied=True),
    "tagger": lambda: RecurrentTagger(7, 3, 4, Spelling(5, 3, 2), BiLSTM(8, 5)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_saved_comes_back_bit_equal(name, dtype, tmp_path):
    net = scramble(NETWORKS[name]()).to(dtype)
    saved.save({"net": net}, tmp_path / "model", "card")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = dlreview.load(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before), "loading draws no numbers"
    assert type(again) is type(net) and not again.training
    assert saved.config_of(again) == saved.config_of(net)
    assert_equal_states(net, again)
    for one, two in zip(net.parameters(), again.parameters(), strict=True):
        assert one.requires_grad == two.requires_grad


def test_the_same_network_is_the_same_file(tmp_path):
    net = ViT(**VIT)
    folder = tmp_path / "0"
    for n in range(3):
        saved.save({"net": net}, tmp_path / str(n), "card")
        assert (tmp_path / str(n) / saved.WEIGHTS).read_bytes() == (
            folder / saved.WEIGHTS
        ).read_bytes()


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    net = ViT(**VIT)
    first, second = net.encoder.blocks[0].attention, net.encoder.blocks[1].attention
    second.W_q.weight = first.W_q.weight
    saved.save({"net": net}, tmp_path / "model", "card")
    state = load_file(tmp_path / "model" / saved.WEIGHTS)
    assert len(state) == len(net.state_dict()) - 1
    # Our ViT does not tie them, so what is absent is missed.
    with pytest.raises(ValueError, match=r"missing 'encoder.blocks.1.attention.W_q.weight'"):
        dlreview.load(tmp_path / "model")


def test_a_network_that_hides_an_argument_is_refused(tmp_path):
    net = ViT(**VIT)
    net.norm = torch.nn.LayerNorm(12)
    with pytest.raises(ValueError, match=r"cannot hold|does not keep"):
        saved.save({"net": net}, tmp_path / "model", "card")
    assert list(tmp_path.iterdir()) == []


def several():
    torch.manual_seed(0)
    return {"teacher": ViT(**VIT), "student": Word2Vec(7, 4)}


def test_several_networks_lie_in_a_folder_each(tmp_path):
    networks, picture = several(), tmp_path / "picture.png"
    picture.write_bytes(b"png")
    configs = {"student": saved.config_of(networks["student"]) | {"init_args": {"width": 4}}}
    saved.save(
        networks, tmp_path / "m", "card", {"a": 1}, picture, configs, {"example.png": picture}
    )
    found = {str(p.relative_to(tmp_path / "m")) for p in (tmp_path / "m").rglob("*.*")}
    top = {"README.md", "usage.json", "sample.png", "example.png", "index.json"}
    parts = {f"{n}/{f}" for n in networks for f in ("config.json", "model.safetensors")}
    assert found == top | parts
    assert json.loads((tmp_path / "m" / "index.json").read_text()) == {"networks": [*networks]}
    written = json.loads((tmp_path / "m" / "student" / "config.json").read_text())
    assert written == configs["student"]
    assert_equal_states(dlreview.load(tmp_path / "m", "teacher"), networks["teacher"])


def test_one_network_is_flat_whatever_its_name(tmp_path):
    saved.save({"generator": ViT(**VIT)}, tmp_path / "m", "card")
    assert {p.name for p in (tmp_path / "m").iterdir()} == {
        "README.md", "config.json", "model.safetensors"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["", "a/b", "..", "a.b"])
def test_a_name_that_is_no_folder_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="networks must have names"):
        saved.save({name: ViT(**VIT)}, tmp_path / "m", "card")
    with pytest.raises(ValueError, match="networks must have names"):
        saved.save({}, tmp_path / "m", "card")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_folder_stays_where_the_new_one_fails(tmp_path):
    saved.save({"net": ViT(**VIT)}, tmp_path / "m", "card")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    with pytest.raises(OSError, match=r"none\.png"):
        saved.save(several(), tmp_path / "m", "new", files={"x": tmp_path / "none.png"})
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


def test_a_window_on_a_larger_tensor_is_written_alone(tmp_path):
    net = Word2Vec(7, 4)
    net.input.weight.data = torch.randn(4, 9).T[2:]  # neither whole nor contiguous
    saved.save({"net": net}, tmp_path / "m", "card")
    assert_equal_states(dlreview.load(tmp_path / "m"), net)
    assert (tmp_path / "m" / "model.safetensors").stat().st_size < 1000
