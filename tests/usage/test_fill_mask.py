"""`sample` fills masks: with the tokenizer of the training data, and with the words it can be."""

import json
from types import SimpleNamespace

import pytest
import tokenizers
import torch
from tokenizers import models

from dlreview import sample, saved
from dlreview.data.tokenizer import BPE, Words
from dlreview.nn.bert import BERT, MaskedTokenHead
from dlreview.usage import fill_mask
from tests.parity import scramble

TEXTS = ["the with statement opens a file", "the import statement finds a module", "a = b + c"]
LONGEST = 14
OTHER = tokenizers.Tokenizer(models.WordLevel({"a": 0}, "a"))


def words():
    return Words().train(TEXTS)


def pieces():
    return BPE(290).train(TEXTS)


def usage_of(encoder):
    return {"task": "fill_mask", "tokenizer": encoder.json}


@pytest.fixture(params=[words, pieces])
def made(request, tmp_path, monkeypatch):
    """Return a saved network with more rows than its tokenizer has tokens, and the tokenizer."""
    monkeypatch.chdir(tmp_path)
    encoder = request.param()
    size = len(encoder) + 3
    net = scramble(BERT(size, 12, 1, 3, LONGEST, head=MaskedTokenHead(size, 12))).float()
    saved.save({"net": net}, tmp_path / "model", "card", usage_of(encoder))
    return net, encoder


def printed(capsys, *argv):
    assert sample.main(["model", *argv, "--device", "cpu"]) == 0
    return capsys.readouterr().out.splitlines()[1:]


def test_the_likeliest_tokens_are_those_of_the_network(made, capsys):
    net, encoder = made
    lines = printed(capsys, "the [MASK] statement <mask> a file", "--top", "3")
    (ids,) = encoder.encode(["the<mask> statement<mask> a file"])
    assert ids.count(4) == 2
    logits = net(torch.tensor([ids]))[0][torch.tensor(ids) == 4]
    p = logits[:, 5 : len(encoder)].softmax(1)
    share, best = p.topk(3)
    names = [[fill_mask.spelled(encoder, t + 5) for t in row] for row in best.tolist()]
    assert lines[0] == f"the {names[0][0]} statement {names[1][0]} a file"
    for line, row, shares in zip(lines[1:3], names, share.tolist(), strict=True):
        assert line == "  " + "  ".join(
            f"{name} {value:.3f}" for name, value in zip(row, shares, strict=True)
        )
    assert lines[3:] == [""]


def test_a_network_that_knows_the_word_says_it(made, capsys):
    net, encoder = made
    word = encoder.encode(["open the import"])[0][-2]
    with torch.no_grad():
        net.head.bias[word] = 1e4
    saved.save({"net": net}, saved.locate("model", ()), "card", usage_of(encoder))
    lines = printed(capsys, "the [mask] statement", "x [MASK]", "--top", "1")
    name = fill_mask.spelled(encoder, word)
    assert lines == [f"the {name} statement", f"  {name} 1.000", "", f"x {name}",
                     f"  {name} 1.000", ""]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (" ", "TEXT: is empty"),
        ("the with statement", "TEXT: has no [MASK]: the with statement"),
        ("a " * LONGEST + "[MASK]", f"this network reads at most {LONGEST}"),
    ],
)
def test_mistakes_are_told_in_one_line(made, capsys, text, problem):
    assert sample.main(["model", text, "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tokenizer": {}}, "usage.json: tokenizer:"),
        ({"tokenizer": None}, "usage.json: there is no tokenizer"),
        ({"tokenizer": json.loads(OTHER.to_str())}, "usage.json: tokenizer: the first tokens must"),
    ],
    ids=["empty", "none", "without special tokens"],
)
def test_a_tokenizer_that_does_not_fit_is_refused(made, capsys, tmp_path, change, problem):
    net, encoder = made
    saved.save({"net": net}, tmp_path / "other", "card", usage_of(encoder) | change)
    assert sample.main(["other", "a [MASK]"]) == 1
    assert problem in capsys.readouterr().err


def test_more_tokens_than_the_network_has_are_refused(made, capsys, tmp_path):
    _, encoder = made
    small = BERT(8, 12, 1, 3, LONGEST, head=MaskedTokenHead(8, 12))
    saved.save({"net": small}, tmp_path / "other", "card", usage_of(encoder))
    assert sample.main(["other", "a [MASK]"]) == 1
    assert f"{len(encoder)} tokens for this BERT" in capsys.readouterr().err


def test_the_example_lacks_a_word_of_the_test_split(made, capsys, tmp_path):
    _, encoder = made
    ids = torch.tensor([[*encoder.encode(TEXTS[:1])[0], 0, 0]])
    for mask in (ids > 0, (ids > 0).long()):
        data = SimpleNamespace(
            val_dataloader=lambda mask=mask: [{"ids": ids, "mask": mask}],
            encoder=encoder,
        )
        assert fill_mask.example(data, tmp_path) == ["the with statement [MASK] a file"]
    assert printed(capsys, *fill_mask.example(data, tmp_path))
    assert fill_mask.example(None, tmp_path) == [fill_mask.TEXT]
    data.val_dataloader = lambda: [{"ids": ids[:, :2], "mask": ids[:, :2] > 0}]
    assert fill_mask.example(data, tmp_path) == [fill_mask.TEXT]
    assert fill_mask.tag({}) == "fill-mask"
