"""`sample` describes pictures: the likeliest captions of the network, and where it looked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dlreview import sample, saved
from dlreview.data.tokenizer import BOS, EOS, UNWRITTEN, Words
from dlreview.nn.captioner import VisionEncoderDecoder
from dlreview.nn.decoder import DecoderBlock
from dlreview.nn.gpt import GPT
from dlreview.nn.vit import ViT
from dlreview.usage import captioning
from tests.parity import scramble

ENCODER = Words().train(["a photo of a three", "a picture of one cat"])
LONGEST = 7
IMAGE = {"channels": 1, "height": 8, "width": 6, "range": [-1.0, 1.0]}
USAGE = {"task": "captioning", "tokenizer": ENCODER.json, "image": IMAGE}


def captioner(size):
    """Return a network whose two parts have different widths."""
    decoder = GPT(size, 12, 1, 3, LONGEST, block=DecoderBlock(12, 3), tied=False)
    return VisionEncoderDecoder(ViT([8, 6], 2, 8, 1, 2, image_channels=1), decoder)


@pytest.fixture
def net(tmp_path, monkeypatch):
    """Return a saved network with more rows than its tokenizer has tokens; draw two pictures."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("x.png", "longer.png")):
        pixels = np.random.default_rng(seed).integers(256, size=(8, 6), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    net = scramble(captioner(len(ENCODER) + 2), spread=1.5)
    saved.save({"net": net.float()}, Path("model"), "card", USAGE)
    return net


def printed(capsys, *argv):
    assert sample.main(["model", *map(str, argv), "--device", "cpu"]) == 0
    return capsys.readouterr().out.splitlines()[1:]


@torch.no_grad()
def greedy(net, file):
    """Take the likeliest token, reading picture and text anew for each."""
    with Image.open(file) as picture:
        image = torch.from_numpy(np.asarray(picture).copy())[None, None] / 127.5 - 1
    ids = [BOS]
    while len(ids) <= LONGEST and ids[-1] != EOS:
        logits = net(image, torch.tensor([ids]))[0, -1]
        logits[[*UNWRITTEN, *range(len(ENCODER), net.vocabulary_size)]] = -torch.inf
        ids.append(int(logits.argmax()))
    return ENCODER.decode(ids)


def test_one_beam_takes_the_likeliest_token(net, capsys):
    lines = printed(capsys, "x.png", "longer.png", "--beams", 1)
    captions = [greedy(net, file) for file in ("x.png", "longer.png")]
    assert captions[0] != captions[1] and all(captions)
    lines = [line for line in lines if not line.startswith("picture: ")]
    assert lines == [f"x.png       {captions[0]}", f"longer.png  {captions[1]}"]


def test_a_search_takes_no_chance_and_may_find_others(net, capsys):
    lines = printed(capsys, "x.png")
    assert lines[0] == printed(capsys, "x.png", "--beams", 4, "--length_penalty", 1)[0]
    found = {printed(capsys, "x.png", "--beams", 6, "--length_penalty", p)[0] for p in (-9, 9)}
    short, long = sorted(found, key=lambda line: len(line.split()))
    assert len(short.split()) < len(long.split()), "the penalty decides the length"


def test_a_picture_shows_where_the_decoder_looked(net, capsys):
    lines = printed(capsys, "x.png", "longer.png", "--out", "out")
    assert lines[1] == "picture: out/looked.png" and len(lines) == 3, "of the first picture"
    assert [file.name for file in Path("out").iterdir()] == ["looked.png"]
    with Image.open("out/looked.png") as picture:
        assert np.asarray(picture).std() > 1


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["none.png"], "none.png: is no picture"),
        (["x.png", "text.png"], "text.png: is no picture"),
    ],
)
def test_mistakes_are_told_in_one_line(net, capsys, argv, problem):
    Path("text.png").write_text("no pixels")
    assert sample.main(["model", *argv, "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert problem in err and len(err.splitlines()) == 1
    assert len(out.splitlines()) <= 1, "before anything is written"


@pytest.mark.parametrize(
    ("usage", "problem"),
    [
        ({"task": "captioning", "image": IMAGE}, "usage.json: there is no tokenizer"),
        (USAGE, f"usage.json: {len(ENCODER)} tokens for this VisionEncoderDecoder"),
    ],
    ids=["missing", "larger than the network"],
)
def test_a_tokenizer_that_does_not_fit_is_refused(net, capsys, usage, problem):
    saved.save({"net": captioner(len(ENCODER) - 1)}, Path("small"), "card", usage)
    assert sample.main(["small", "x.png", "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line


def test_the_tag_is_the_hubs():
    assert captioning.tag({}) == "image-to-text"
