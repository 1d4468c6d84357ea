"""A streamed text: shares of processes and workers, and going on in the middle."""

import io
import itertools
import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from dlreview.data.streaming import CHUNK, StreamingText
from dlreview.data.tokenizer import BPE, EOS, Words

FILES, ROWS = 4, 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four files of sixty rows; row n of all is "r<n> x"."""
    path = tmp_path_factory.mktemp("text")
    for part in range(FILES):
        rows = [f"r{part * ROWS + n} x" for n in range(ROWS)]
        pq.write_table(pa.table({"text": rows}), path / f"train-{part:05}-of-00004.parquet")
    pq.write_table(pa.table({"text": ["r1 x"] * 20}), path / "test-00000-of-00001.parquet")
    return str(path)


def make(folder, workers=0, rank=0, processes=1, **options):
    data = StreamingText(folder, 2, 3, Words(), num_workers=workers, **options)
    data.setup()
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=processes, max_steps=99, limit_train_batches=1.0
    )
    return data


def read(data, count):
    """Return the token numbers of some batches, as training would take them."""
    found = []
    for batch in itertools.islice(data.train_dataloader(), count):
        batch = data.on_before_batch_transfer(batch, 0)
        assert set(batch) == {"ids", "first"} and batch["first"] is True
        found.append(batch["ids"])
    return found


def words(data, windows):
    """Return the words of all windows, each once."""
    ids = [window[:-1] for batch in windows for window in batch.tolist()]
    return [data.encoder.tokenizer.id_to_token(n) for window in ids for n in window if n != EOS]


def test_windows_overlap_by_a_token_and_the_text_begins_again(folder):
    data = make(folder)
    batches = read(data, 130)  # of six tokens: one pass is 240 rows of three tokens, 120 batches
    told = [word for word in words(data, batches) if word != "x"]
    assert sorted(told[:240]) == sorted(f"r{n}" for n in range(FILES * ROWS))
    assert told[240:] == told[:20]
    flat = torch.cat([batch[:, :-1].flatten() for batch in batches])
    nexts = torch.cat([batch[:, 1:].flatten() for batch in batches])
    assert torch.equal(flat[1:], nexts[:-1])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [2, 3])
def test_shares_have_no_row_in_common_and_all_rows_are_seen(folder, workers, processes):
    seen = []
    for rank in range(processes):
        data = make(folder, workers, rank, processes)
        count = FILES * ROWS * 3 // 6 // processes  # batches of one pass
        seen.append({word for word in words(data, read(data, count)) if word != "x"})
    assert set.union(*seen) == {f"r{n}" for n in range(FILES * ROWS)}
    assert sum(map(len, seen)) == FILES * ROWS


@pytest.mark.parametrize(("workers", "done"), [(0, 25), (0, 130), (2, 25), (2, 24)])
def test_it_goes_on_in_the_middle(folder, workers, done):
    whole = read(make(folder, workers), 150)
    first, second = make(folder, workers), make(folder, workers)
    assert CHUNK < ROWS * FILES
    for batch, other in zip(read(first, done), whole, strict=False):
        assert torch.equal(batch, other)
    state = io.BytesIO()
    torch.save(first.state_dict(), state)
    state.seek(0)
    second.load_state_dict(torch.load(state, weights_only=True))
    rest = read(second, 150 - done)
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[done:], strict=True))
    again = read(first, 5)  # another epoch of the same module goes on too
    assert all(torch.equal(a, b) for a, b in zip(again, whole[done:], strict=False))
    with pytest.raises(ValueError, match=f"1 processes with {workers} workers, this is 2 with"):
        make(folder, workers, 0, 2).load_state_dict(first.state_dict())


class Reader(LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.seen = torch.nn.Linear(1, 1), []

    def training_step(self, batch, _):
        self.seen.append(batch["ids"])
        return self.net(torch.ones(1, 1)).sum()

    def validation_step(self, batch, _):
        assert batch["ids"].shape[1] == 4

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_goes_on_from_a_checkpoint(folder, tmp_path):
    def fit(steps, checkpoint=None):
        reader = Reader()
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet |= {"default_root_dir": tmp_path, "enable_checkpointing": False}
        trainer = Trainer(max_steps=steps, limit_train_batches=4, accelerator="cpu", **quiet)
        trainer.fit(reader, StreamingText(folder, 2, 3, Words()), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return reader.seen

    whole = fit(11)
    first = fit(6)
    rest = fit(11, tmp_path / "last.ckpt")
    assert len(whole) == 11 and len(rest) == 5
    assert all(torch.equal(a, b) for a, b in zip([*first, *rest], whole, strict=True))


def test_usage_sizes_and_the_tokenizer_of_a_file(folder, tmp_path):
    data = make(folder, tokenizer_rows=10)
    assert len(data.encoder) == 5 + 1 + 10, "ten rows: ten names and x"
    assert data.sizes == {"vocabulary_size": 16, "max_length": 3}
    assert data.characters_per_token == 5 / 3
    assert len(data.test_set) == 19 and sum(len(b["ids"]) for b in data.val_dataloader()) == 19
    (tmp_path / "tokenizer.json").write_text(json.dumps(data.usage()["tokenizer"]))
    other = StreamingText(folder, tokenizer_file=str(tmp_path / "tokenizer.json"), length=3)
    other.setup()
    assert other.encoder.json == data.encoder.json


def test_what_cannot_be_is_refused(folder, tmp_path):
    for options, told in (
        ({"column": "txt"}, "has no column 'txt'; it has text"),
        ({"train_split": "all"}, "split of .* 'all' is unknown"),
        ({"test_split": "tset"}, "did you mean 'test'"),
        ({"length": 500}, "tokens are too few for a window of length 500"),
        ({"tokenizer_file": str(tmp_path / "none.json")}, "none.json': No such file"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_workers": -1}, "num_workers must be in"),
    ):
        with pytest.raises(ValueError, match=told):
            StreamingText(folder, **options).setup()
    with pytest.raises(ValueError, match="no such folder"):
        StreamingText(str(tmp_path / "nowhere")).setup()
    with pytest.raises(ValueError, match="too few rows with a text for 300 workers"):
        read(make(folder, 0, 299, 300), 1)
    data = make(folder)
    data.trainer.max_steps = -1
    with pytest.raises(ValueError, match=r"the text has no end: set trainer.max_steps"):
        data.train_dataloader()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="has no split to test on; it has 'train'"):
        StreamingText(str(tmp_path), tokenizer=BPE(300)).setup()
