"""`sample` tags sentences: with the numbers that the training data gave to words and letters."""

from types import SimpleNamespace

import pytest
import torch

from dlreview import sample, saved
from dlreview.data.corpus import Ragged
from dlreview.data.tagged import Tagged
from dlreview.data.text import Vocabulary
from dlreview.nn.lstm import BiLSTM
from dlreview.nn.tagger import RecurrentTagger, Spelling
from dlreview.usage import tagging
from tests.parity import scramble

SIZE = 500


@pytest.fixture(scope="module")
def data():
    made = Tagged("python-source", vocabulary_size=SIZE)
    made.setup()
    return made


@pytest.fixture
def net(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = Spelling(len(data.letters) + 3, 6, 4), BiLSTM(20, 16)
    net = scramble(RecurrentTagger(SIZE, len(data.tags) + 2, 12, *parts)).float()
    with torch.no_grad():
        net.spelling.embedding.weight[0] = 0
    saved.save({"net": net}, tmp_path / "model", "card", {"task": "tagging"} | data.usage())
    return net


def test_a_sentence_is_read_as_the_data_read_it(net, data, capsys):
    row = next(n for n, length in enumerate(data.test_set.forms.length) if 6 < length < 10)
    batch = data.test_set[[row]]
    words = data.forms.decode(data.test_set.forms[[row]]["text"].tolist())
    assert sample.main(["model", " ".join(words), "--top", "2", "--device", "cpu"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:] if line]
    assert [line[0] for line in lines] == words
    logits = net(*(batch[k] for k in ("words", "spellings", "form", "lengths")))[0]
    logits = logits[:, 1 : len(data.tags)]  # <unk> is no answer, nor are rows without a tag
    share, best = logits.softmax(1).topk(2)
    for line, shares, tags in zip(lines, share.tolist(), best.tolist(), strict=True):
        expected = [x for p, t in zip(shares, tags, strict=True)
                    for x in (data.tags.words[t + 1], f"{p:.3f}")]  # fmt: skip
        assert line[1:] == expected


def test_any_word_can_be_tagged(net, capsys):
    text = ["pneumonoultramicroscopicsilicovolcanoconiosis = Ωmega", "x"]
    assert sample.main(["model", *text, "--device", "cpu"]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines()[1:] if line]) == 4


def test_mistakes_are_told(net, capsys):
    assert sample.main(["model", " "]) == 2
    assert "SENTENCE" in capsys.readouterr().err
    assert sample.main(["model"]) == 2
    assert len(capsys.readouterr().err.splitlines()) <= 3


def test_tables_that_do_not_fit_are_refused(net, data, capsys, tmp_path):
    usage = {"task": "tagging"} | data.usage() | {"tags": []}
    saved.save({"net": net}, tmp_path / "other", "card", usage)
    assert sample.main(["other", "x"]) == 1
    assert f"0 tags for this {type(net).__name__}" in capsys.readouterr().err


def test_the_example_is_a_sentence_of_the_test_split(net, data, capsys, tmp_path):
    [text] = tagging.example(data, tmp_path)
    assert 4 <= len(text.split()) <= 12
    rows = range(len(data.test_set))
    sentences = (data.forms.decode(data.test_set.forms[[row]]["text"].tolist()) for row in rows)
    assert text.split() in sentences
    assert sample.main(["model", text, "--device", "cpu"]) == 0
    assert tagging.example(None, tmp_path) == [tagging.SENTENCE]


def test_the_example_does_not_begin_as_a_flag(data, tmp_path):
    lines = [["--", "it", "is", "so"], ["and", "this", "is", "too", "-"]]
    made = SimpleNamespace(forms=Vocabulary(lines), test_set=SimpleNamespace())
    made.test_set.forms = Ragged([made.forms.encode(line) for line in lines])
    assert tagging.example(made, tmp_path) == ["and this is too -"]
