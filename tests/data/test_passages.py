"""Passages of the embedded text, of a file and of a data set."""

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dlreview.data.passages import Passages, cut
from dlreview.data.tokenizer import BOS, EOS, PAD, Encoder, Words
from dlreview.running.sizes import count_batches, count_steps


@pytest.fixture(scope="module")
def data():
    data = Passages(tokens_per_batch=512, length=64, tokenizer=Words(2000))
    data.setup()
    return data


def test_long_passages_are_cut_into_equal_parts():
    assert cut([[7, 8], [], [5] * 7], 5) == [
        [2, 7, 8, 3],
        [2, 5, 5, 3],
        [2, 5, 5, 3],
        [2, 5, 5, 5, 3],
    ]


def test_batches_of_the_embedded_text(data, capsys):
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) > 50
    for batch in batches:
        ids, mask = batch["ids"], batch["mask"]
        assert ids.numel() <= 512 and ids.shape[1] <= 64
        assert (ids[:, 0] == BOS).all() and ((ids == EOS).sum(1) == 1).all()
        assert torch.equal(ids == PAD, ~mask) and mask.any(0).all()
    tokens = sum(int(batch["mask"].sum()) for batch in batches)
    total = sum(batch["ids"].numel() for batch in batches)
    assert data.padding == pytest.approx(1 - tokens / total) and 0 < data.padding < 0.08
    seen = sum(len(batch["ids"]) for batch in data.val_dataloader())
    assert seen == len(data.test_set)


def test_padding_is_told(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("one two\n\nthree\n" * 20)
    data = Passages(str(tmp_path / "text.txt"), 64, 8, Words(), test_split=0.2)
    data.setup()
    batches = len(data.train_dataloader())
    assert len(data.train_dataloader()) == batches
    told = capsys.readouterr().out
    assert told.count(f"32 passages in {batches} batches, ") == 1
    assert "% of their tokens padding" in told


def test_usage_is_enough_to_read_and_write(data):
    usage = data.usage()
    encoder = Encoder.from_json(usage["tokenizer"])
    row = data.test_set[[0]]["ids"][0]
    assert encoder.encode([encoder.decode(row.tolist())], ends=False)[0] == row[1:-1].tolist()
    assert data.sizes == {"vocabulary_size": len(encoder), "max_length": 64}
    assert usage["max_length"] == 64


def test_the_number_of_steps_is_known(data):
    trainer = SimpleNamespace(
        world_size=1, limit_train_batches=1.0, val_check_interval=1.0, max_epochs=3,
        accumulate_grad_batches=1, max_steps=-1, check_val_every_n_epoch=1,
        limit_val_batches=1.0, callbacks=[])  # fmt: skip
    steps = count_steps(trainer, count_batches(trainer, data))
    assert steps == 3 * len(list(data.train_dataloader()))


def test_rows_of_a_column(tmp_path):
    for split in ("train", "test"):
        rows = ["the cat sat", None, " ", "the dog"] * 4
        pq.write_table(pa.table({"line": rows}), tmp_path / f"{split}-00000-of-00001.parquet")
    data = Passages(str(tmp_path), 40, 9, column="line")
    data.setup()
    assert len(data.train_set) == len(data.test_set) == 8


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"length": 2}, "length must be at least 3, got 2"),
        ({"tokens_per_batch": 64}, "tokens_per_batch must be at least 128, got 64"),
        ({"path": "./nowhere"}, "no such folder"),
        ({"test_split": "tset"}, "did you mean 'test'"),
    ],
)
def test_what_cannot_be_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Passages(**options).setup()
