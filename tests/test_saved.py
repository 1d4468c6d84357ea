import json
import os
import pickle
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

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


@pytest.fixture
def folder(tmp_path):
    """A sound model folder."""
    torch.manual_seed(0)
    saved.save(ViT(**VIT), tmp_path / "model", "card", {"weights": "averaged"})
    return tmp_path / "model"


def assert_equal_states(one, two):
    one, two = one.state_dict(), two.state_dict()
    assert list(one) == list(two)
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype and torch.equal(tensor, two[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_saved_comes_back_bit_equal(name, dtype, tmp_path):
    net = scramble(NETWORKS[name]()).to(dtype)
    saved.save(net, tmp_path / "model", "card")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = dlreview.load(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before), "loading draws no numbers"
    assert type(again) is type(net) and not again.training
    assert saved.config_of(again) == saved.config_of(net)
    assert_equal_states(net, again)
    for one, two in zip(net.parameters(), again.parameters(), strict=True):
        assert one.requires_grad == two.requires_grad


def test_the_same_network_is_the_same_file(folder, tmp_path):
    net = dlreview.load(folder)
    for n in range(3):
        saved.save(net, tmp_path / str(n), "card")
        assert (tmp_path / str(n) / saved.WEIGHTS).read_bytes() == (
            folder / saved.WEIGHTS
        ).read_bytes()


def test_the_config_is_the_recipes_section(folder):
    config = json.loads((folder / saved.CONFIG).read_text())
    assert set(config) == {"class_path", "init_args"}
    assert config["class_path"] == "dlreview.nn.vit.ViT"
    assert config["init_args"].items() >= VIT.items()


def test_weights_from_says_which(folder):
    assert dlreview.load(folder).weights_from == f"{folder}/model.safetensors: averaged"


def test_a_run_gives_its_model(folder):
    (folder.parent / "config.yaml").write_text("{}")
    assert_equal_states(dlreview.load(folder.parent), dlreview.load(folder))


@pytest.mark.parametrize("averaged", [False, True])
def test_an_unfinished_run_gives_its_checkpoint(averaged, tmp_path):
    net = scramble(ViT(**VIT)).float()
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    checkpoint = {"state_dict": state | {"other.weight": torch.ones(1)}, "global_step": 7}
    if averaged:
        checkpoint |= {"averaging_state": {"n_averaged": torch.tensor(3)}}
    (tmp_path / "checkpoints").mkdir()
    torch.save(checkpoint, tmp_path / "checkpoints" / "last.ckpt")
    recipe = {"model": {"class_path": "x", "init_args": {"net": saved.config_of(net)}}}
    (tmp_path / "config.yaml").write_text(json.dumps(recipe))
    again = dlreview.load(tmp_path)
    assert_equal_states(net, again)
    kind = "averaged" if averaged else "last"
    assert again.weights_from.endswith(f"last.ckpt: {kind}, step 7")


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


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    net = ViT(**VIT)
    first, second = net.encoder.blocks[0].attention, net.encoder.blocks[1].attention
    second.W_q.weight = first.W_q.weight
    saved.save(net, tmp_path / "model", "card")
    state = load_file(tmp_path / "model" / saved.WEIGHTS)
    assert len(state) == len(net.state_dict()) - 1
    # Our ViT does not tie them, so what is absent is missed.
    with pytest.raises(ValueError, match=r"missing 'encoder.blocks.1.attention.W_q.weight'"):
        dlreview.load(tmp_path / "model")


class Boom:
    """A pickle that would tell if it were opened."""

    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('boom').touch()",))


def config(change):
    def damage(folder):
        tree = json.loads((folder / saved.CONFIG).read_text())
        change(tree)
        (folder / saved.CONFIG).write_text(json.dumps(tree))

    return damage


def argument(**values):
    return config(lambda tree: tree["init_args"].update(values))


def class_path(path):
    return config(lambda tree: tree.update(class_path=path))


def text(value, name=saved.CONFIG):
    return lambda folder: (folder / name).write_bytes(value)


def state(change):
    def damage(folder):
        tensors = load_file(folder / saved.WEIGHTS)
        change(tensors)
        save_file(tensors, folder / saved.WEIGHTS)

    return damage


def data(change):
    def damage(folder):
        file = folder / saved.WEIGHTS
        file.write_bytes(change(file.read_bytes()))

    return damage


def flip(at):
    def change(old):
        new = bytearray(old)
        new[at] ^= 0x10
        return bytes(new)

    return data(change)


def header(old, **entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + old


def nested(depth):
    value = '{"class_path": "dlreview.nn.norm.LayerNorm", "init_args": {"width": 3}}'
    for _ in range(depth):
        value = f'{{"class_path": "dlreview.nn.vit.ViT", "init_args": {{"norm": {value}}}}}'
    return value.encode()


BIG = 10**12
FAULTS = {
    "weights cut short": (data(lambda old: old[:-5]), "safetensors"),
    "weights cut in the header": (data(lambda old: old[:40]), "safetensors"),
    "weights empty": (data(lambda old: b""), "safetensors"),
    "weights longer": (data(lambda old: old + b"more"), "safetensors"),
    "weights all zeros": (data(lambda old: bytes(len(old))), "safetensors"),
    "a header of exabytes": (data(lambda old: b"\xff" * 7 + b"\x0f" + old[8:]), "safetensors"),
    "a bit of the last number": (flip(-1), "checksum"),
    "a bit of a number": (flip(-500), "checksum"),
    "a bit of the header's length": (flip(0), "safetensors"),
    "a bit of the first brace": (flip(8), "safetensors"),
    "a pickle for weights": (text(pickle.dumps(Boom()), saved.WEIGHTS), "safetensors"),
    "a torch checkpoint for weights": (
        lambda folder: torch.save({"x": torch.ones(3)}, folder / saved.WEIGHTS),
        "safetensors",
    ),
    "a tensor missing": (state(lambda s: s.pop("head.bias")), "missing 'head.bias'"),
    "a tensor too many": (
        state(lambda s: s.update({"extra.weight": torch.ones(2)})),
        "unexpected 'extra.weight'",
    ),
    "a tensor renamed": (
        state(lambda s: s.update({"heads.bias": s.pop("head.bias")})),
        r"missing 'head.bias' \(did you mean heads.bias\?\); unexpected 'heads.bias'",
    ),
    "a tensor of another shape": (
        state(lambda s: s.update({"head.bias": torch.ones(7)})),
        r"'head.bias' has shape \[7\], the configuration says \[5\]",
    ),
    "a tensor transposed": (
        state(lambda s: s.update({"head.weight": s["head.weight"].T.contiguous()})),
        r"'head.weight' has shape \[12, 5\]",
    ),
    "integers for numbers": (
        state(lambda s: s.update({"head.bias": torch.ones(5, dtype=torch.int32)})),
        "'head.bias' holds torch.int32",
    ),
    "truth values for numbers": (
        state(lambda s: s.update({"head.bias": torch.ones(5, dtype=torch.bool)})),
        "'head.bias' holds torch.bool",
    ),
    "complex numbers": (
        state(lambda s: s.update({"head.bias": torch.ones(5, dtype=torch.complex64)})),
        "'?head.bias'? holds C64",
    ),
    "the same tensor twice": (
        state(lambda s: s.update({"net.head.bias": torch.ones(5)})),
        "are one tensor",
    ),
    "no tensors": (state(lambda s: s.clear()), "missing 'class_embedding' and"),
    "a tensor of a terabyte, but no data": (
        data(lambda old: header(b"", x={"dtype": "F32", "shape": [BIG], "data_offsets": [0, 8]})),
        "safetensors",
    ),
    "config empty": (text(b""), "not sound JSON"),
    "config cut short": (text(b'{"class_path": "dlreview.nn.vit.ViT", "init'), "not sound JSON"),
    "config no text": (text(b"\xff\xfe\x00"), "not sound JSON"),
    "config a list": (text(b"[1, 2]"), "expected class_path"),
    "config a number": (text(b"7"), "expected class_path"),
    "config nested without end": (text(b"[" * 100_000), "not sound JSON"),
    "config nested": (text(nested(500)), "config.json"),
    "config of a gigabyte": (
        lambda folder: os.truncate(folder / saved.CONFIG, 10**9),
        "longer than",
    ),
    "config without class": (config(lambda tree: tree.pop("class_path")), "expected class_path"),
    "config with another key": (config(lambda tree: tree.update(auto_map={})), "auto_map"),
    "config without sizes": (config(lambda tree: tree.pop("init_args")), "image_size"),
    "arguments a list": (config(lambda tree: tree.update(init_args=[1])), "expected"),
    "class elsewhere": (class_path("os.system"), "not a network of dlreview.nn"),
    "class of torch": (class_path("torch.nn.Linear"), "not a network of dlreview.nn"),
    "class through a module": (class_path("dlreview.nn.vit.nn.Linear"), "not a network"),
    "class imported there": (class_path("dlreview.nn.vit.LayerNorm"), "not a network"),
    "class above": (class_path("dlreview.nn...saved.load"), "not a network"),
    "class of another sort": (class_path("dlreview.nn.vit.drop_tokens"), "not a network"),
    "class private": (class_path("dlreview.nn.vit.__builtins__"), "not a network"),
    "class a number": (class_path(3), "expected class_path"),
    "class unknown": (class_path("dlreview.nn.vit.WiT"), "not a network"),
    "class within elsewhere": (
        argument(norm={"class_path": "subprocess.Popen", "init_args": {"args": "ls"}}),
        "'subprocess.Popen' is not a network",
    ),
    "argument unknown": (argument(dpeth=3), "no argument 'dpeth'; did you mean depth"),
    "argument of another type": (argument(width="wide"), "width"),
    "argument out of range": (argument(heads=5), "heads"),
    "argument below zero": (argument(num_classes=-1), "num_classes"),
    "argument huge": (argument(width=BIG), f"width is {BIG}"),
    "argument endless": (argument(depth=BIG), f"depth is {BIG}"),
    "argument infinite": (argument(width=float("inf")), "width is inf"),
    "many layers": (argument(depth=900_000), "parts than the weights"),
    "wide layers": (argument(width=600_000, heads=1), "GiB|shape"),
    "many positions": (
        config(lambda tree: tree["init_args"]["positions"]["init_args"].update(grid=[999, 999])),
        r"'positions.table' has shape \[5, 12\]",
    ),
    "one layer less": (argument(depth=1), "unexpected 'encoder.blocks.1"),
    "usage no JSON": (text(b"{", saved.USAGE), "usage.json: not sound JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_folder_gives_one_clear_line(fault, folder, monkeypatch):
    damage, words = FAULTS[fault]
    damage(folder)
    monkeypatch.chdir(folder.parent)
    start = time.monotonic()
    with pytest.raises(ValueError, match=words) as caught:
        dlreview.load(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 900
    assert str(folder.name) in message
    assert time.monotonic() - start < 20
    assert not (folder.parent / "boom").exists()


def test_checkpoints_are_plain_numbers_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": Boom()}, tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ValueError, match="more than plain numbers"):
        dlreview.load(tmp_path)
    assert not (tmp_path / "boom").exists()


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


def test_a_network_that_hides_an_argument_is_refused(tmp_path):
    net = ViT(**VIT)
    net.norm = torch.nn.LayerNorm(12)
    with pytest.raises(ValueError, match=r"cannot hold|does not keep"):
        saved.save(net, tmp_path / "model", "card")
    assert list(tmp_path.iterdir()) == []
