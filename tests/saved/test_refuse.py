"""Hostile and damaged folders are refused in one line, before they take memory or run code."""

import json
import os
import pickle
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import dlreview
from dlreview import saved
from dlreview.nn.vit import ViT
from dlreview.saved import refuse

VIT = {"image_size": 8, "patch_size": 4, "width": 12, "depth": 2, "heads": 3, "num_classes": 5}


@pytest.fixture
def folder(tmp_path):
    """A sound model folder."""
    torch.manual_seed(0)
    saved.save({"net": ViT(**VIT)}, tmp_path / "model", "card", {"weights": "averaged"})
    return tmp_path / "model"


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
        "'head.bias' holds torch.complex64",
    ),
    "numbers of eight bits": (
        state(lambda s: s.update({"head.bias": torch.ones(5).to(torch.float8_e5m2)})),
        "'head.bias' holds torch.float8_e5m2",
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


def index(text):
    def damage(folder):
        (folder / saved.INDEX).write_text(text)

    return damage


INDEXES = ["{", "[]", "{}", '{"networks": []}', '{"networks": ["../model"]}', '{"networks": [3]}']


@pytest.mark.parametrize("text", INDEXES)
def test_a_damaged_index_gives_one_clear_line(text, folder):
    index(text)(folder)
    with pytest.raises(ValueError, match=r"index.json: (expected names|not sound)") as caught:
        dlreview.load(folder)
    assert "\n" not in str(caught.value)


def test_checkpoints_are_plain_numbers_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": Boom()}, tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ValueError, match="more than plain numbers"):
        dlreview.load(tmp_path)
    assert not (tmp_path / "boom").exists()


def test_a_table_outside_the_state_is_refused_before_it_takes_memory(tmp_path):
    with torch.device("meta"):
        outline = nn.Module()
        outline.register_buffer("small", torch.zeros(3), persistent=False)
        refuse.refuse_large_tables(outline, tmp_path)
        outline.register_buffer("taps", torch.zeros(10**7, 10**7), persistent=False)
    with pytest.raises(ValueError, match=r"taps of shape \[10000000, 10000000\] is too large"):
        refuse.refuse_large_tables(outline, tmp_path)
