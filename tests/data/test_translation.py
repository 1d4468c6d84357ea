"""Pairs of texts: their batches, and what is left out."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlreview.data.tokenizer import BOS, BPE, EOS, PAD, Encoder, Words
from dlreview.data.translation import Translation


@pytest.fixture(scope="module")
def data():
    data = Translation(tokens_per_batch=1000, length=60, tokenizer=BPE(400))
    data.setup()
    return data


def folder(tmp_path, **columns):
    pq.write_table(pa.table(columns), tmp_path / "train-00000-of-00001.parquet")
    return str(tmp_path)


def test_batches_of_the_embedded_numbers(data):
    batch = next(iter(data.train_dataloader()))
    assert set(data.gives) <= set(batch)
    source, target = batch["source"], batch["target"]
    assert max(source.numel(), target.numel()) <= 1000
    assert (target[:, 0] == BOS).all() and not (source == BOS).any()
    for name in ("source", "target"):
        ids, mask = batch[name], batch[f"{name}_mask"]
        assert ((ids == PAD) == ~mask).all() and ((ids == EOS).sum(1) == 1).all()
        assert (ids[:, -1] != PAD).any()
    pairs = [(data.encoder.decode(s), data.encoder.decode(t))
             for s, t in zip(source.tolist(), target.tolist(), strict=True)]  # fmt: skip
    assert all(digits.replace(",", "").isdecimal() for digits, _ in pairs)
    assert all(words.replace(" ", "").isalpha() for _, words in pairs)


def test_usage_and_sizes(data):
    usage = data.usage()
    assert len(Encoder.from_json(usage["tokenizer"])) == data.sizes["vocabulary_size"]
    assert data.sizes["max_length"] == usage["max_length"] == 60
    assert usage["columns"] == {"source": "digits", "target": "words"}


def test_empty_and_long_pairs_are_left_out_and_told(tmp_path, capsys):
    en = ["one two", "", None, "a b c d e f", "three", "four"] * 4
    de = ["eins zwei", "leer", "x", "kurz", "drei", " "] * 4
    data = Translation(
        folder(tmp_path, en=en, de=de), "en", "de", 20, 5, Words(), test_split="train"
    )
    data.setup()
    told = capsys.readouterr().out
    assert "split 'train': 12 of 24 pairs have an empty text, left out" in told
    assert "4 of 12 training pairs have more than 5 tokens, left out" in told
    assert len(data.train_set) == 8
    source, target = (data.train_set[[0]][name][0].tolist() for name in ("source", "target"))
    assert data.encoder.decode(source) == "one two" and data.encoder.decode(target) == "eins zwei"
    assert len(source) == 3 and len(target) == 4


def test_what_cannot_be_is_refused(tmp_path):
    path = folder(tmp_path, en=["a b c", ""], de=["d e f", "g"])
    with pytest.raises(ValueError, match="1 of 1 training pairs have more than 4 tokens"):
        Translation(path, "en", "de", 20, 4, Words(), test_split="train").setup()
    with pytest.raises(ValueError, match="has no column 'es'; it has en, de"):
        Translation(path, "en", "es").setup()
    with pytest.raises(ValueError, match="source and target are the same column, 'en'"):
        Translation(path, "en", "en")
    with pytest.raises(ValueError, match="column of 'numbers' 'en' is unknown"):
        Translation(source="en").setup()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="there is no pair of texts"):
        Translation(folder(empty, en=[""], de=["a"]), "en", "de").setup()
