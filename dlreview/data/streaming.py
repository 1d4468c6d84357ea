"""Windows of a text that does not fit in memory, read row by row while training goes on.

The rows are shared out over processes and over their workers, so that no row is read twice. A share
has no end: after its last row it begins again. Each batch brings with it the place of its share, so
that a checkpoint knows the places and a resumed run goes on with the next batch.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dlreview.data.order import Rows, batches, order_once, place_among_processes
from dlreview.data.sources import opening
from dlreview.data.splits import MOST_WORKERS, choose_test_split
from dlreview.data.tokenizer import BPE, EOS, Encoder, Tokenizer
from dlreview.messages import check_at_least, check_known

CHUNK = 64  # rows that are read and numbered at a time
PLACE = "place"


class Windows(Rows):
    """Windows of a text in memory; nothing comes before any of them."""

    def __init__(self, tokens: list[int], length: int) -> None:
        count = max(0, len(tokens) - 1) // length
        ids = torch.tensor(tokens[: count * length + 1], dtype=torch.int64)
        super().__init__({"ids": ids.unfold(0, length + 1, length) if count else ids[:0, None]})

    def __getitem__(self, rows: list[int]) -> dict[str, Any]:
        return super().__getitem__(rows) | {"first": True}


class ShareReader:
    """Reads the rows of one worker of one process as token numbers, over and over.

    Args:
        rows: all rows, a streamed data set.
        number: which share it is.
        shares: number of shares.
        place: where to begin, as `place` gave it; None for the first row.
    """

    def __init__(self, rows: Any, number: int, shares: int, place: Any = None) -> None:
        self.all, self.number, self.shares = rows, number, shares
        self.rows = self.begin()
        self.left: list[int] = []
        if place is not None:
            self.rows.load_state_dict(place["rows"])
            self.left = place["left"].tolist()

    def begin(self) -> Any:
        """Return the rows of this share from the first on."""
        from datasets.distributed import split_dataset_by_node

        return split_dataset_by_node(self.all, rank=self.number, world_size=self.shares)

    def place(self) -> dict[str, Any]:
        """Return where the share stands: the next row, and the tokens that are left over."""
        return {"rows": self.rows.state_dict(), "left": torch.tensor(self.left, dtype=torch.int32)}

    def chunks(self, column: str) -> Iterator[list[str]]:
        """Yield the texts of some rows at a time, without an end.

        Raises:
            ValueError: the share has no text.
        """
        for turn in itertools.count():
            found = False
            # `iter` reads all rows, where iterating would share them out over workers once more.
            for chunk in self.rows.iter(batch_size=CHUNK):
                texts = [text for text in chunk[column] if text and text.strip()]
                found = found or bool(texts)
                yield texts
            if not found and turn:
                raise ValueError(f"there are too few rows with a text for {self.shares} workers")
            self.rows = self.begin()

    def read(self, encoder: Encoder, column: str, count: int) -> Iterator[Tensor]:
        """Yield token numbers, `count` and the next one at a time; each row ends with <eos>."""
        for texts in self.chunks(column):
            self.left += [n for ids in encoder.encode(texts, ends=False) for n in [*ids, EOS]]
            while len(self.left) > count:
                tokens, self.left = torch.tensor(self.left[: count + 1]), self.left[count:]
                yield tokens


class Streamed(IterableDataset[dict[str, Any]]):
    """Batches of windows of a streamed text, each with the place of its share.

    Args:
        rows: all rows, a streamed data set.
        encoder: what tokens are.
        column: of the text.
        batch_size: windows of a batch.
        length: tokens that a window predicts.
        rank: number of this process.
        processes: number of processes.
        places: where the shares of this process stand, by worker. The data module keeps them.
    """

    def __init__(
        self,
        rows: Any,
        encoder: Encoder,
        column: str,
        batch_size: int,
        length: int,
        rank: int,
        processes: int,
        places: Places,
    ) -> None:
        self.rows, self.encoder, self.column = rows, encoder, column
        self.batch_size, self.length = batch_size, length
        self.rank, self.processes, self.places = rank, processes, places

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        worker = (worker + self.places.next) % workers  # the first worker gives the next batch
        number, shares = self.rank * workers + worker, self.processes * workers
        share = ShareReader(self.rows, number, shares, self.places.of.get(worker))
        size = self.batch_size, self.length
        for tokens in share.read(self.encoder, self.column, size[0] * size[1]):
            ids = tokens.unfold(0, self.length + 1, self.length)
            place = {"worker": worker, "workers": workers, "at": share.place()}
            yield {"ids": ids.contiguous(), "first": True, PLACE: place}


class Places:
    """Where the shares of one process stand after the batches that were trained on."""

    def __init__(self) -> None:
        self.of: dict[int, Any] = {}
        self.next = 0

    def move(self, place: dict[str, Any]) -> None:
        """Note the place that a batch brought."""
        self.of[place["worker"]] = place["at"]
        self.next = (place["worker"] + 1) % place["workers"]


class ResumableLoader(DataLoader[Any]):
    """A loader that begins where a run stands; the state is the data module's.

    Lightning looks for these two methods, and warns of a resumed run without them.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Change nothing."""


class StreamingText(LightningDataModule):
    """Batches {"ids": length + 1 tokens of each window, "first": True} of a text without an end.

    Each row ends with <eos>; windows go over the ends of rows. Rows are read in the order of the
    files, which should be a random one. The rows are best shared out where the number of files is
    a multiple of processes times workers. Training needs `trainer.max_steps`, or
    `trainer.limit_train_batches` as a number of batches to call an epoch.

    Args:
        path: a folder that `datasets` reads, or a name on the hub.
        batch_size: windows per process and step.
        length: tokens that a window predicts.
        tokenizer: what a token is; null for `BPE` of 4,000 tokens.
        tokenizer_rows: the tokenizer is trained on so many rows at the beginning.
        tokenizer_file: `tokenizer.json` of a trained tokenizer, instead of the last two.
        column: column that holds the text.
        train_split: split to train on.
        test_split: split to validate on; "validation" where there is no split "test".
        test_rows: largest number of its rows to read; they are held in memory.
        num_workers: processes that read rows and number their tokens.
        config: name of the data set's configuration, where it has several.

    Raises:
        ValueError: a size is not positive, there is no such data, column or split, too little text
            to validate on, or the file holds no tokenizer.
        OSError: the hub cannot be reached.
    """

    gives = ("ids", "first")

    def __init__(  # what is read, how it is cut into tokens, and on how much of it
        self,
        path: str,
        batch_size: int = 32,
        length: int = 128,
        tokenizer: Tokenizer | None = None,
        tokenizer_rows: int = 10_000,
        tokenizer_file: str | None = None,
        column: str = "text",
        train_split: str = "train",
        test_split: str = "test",
        test_rows: int = 1000,
        num_workers: int = 0,
        config: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, batch_size=batch_size, length=length)
        check_at_least(1, tokenizer_rows=tokenizer_rows, test_rows=test_rows)
        if not 0 <= num_workers <= MOST_WORKERS:
            raise ValueError(f"num_workers must be in 0..{MOST_WORKERS}, got {num_workers}")
        self.path, self.config, self.batch_size, self.length = path, config, batch_size, length
        self.tokenizer, self.tokenizer_rows = tokenizer or BPE(), tokenizer_rows
        self.tokenizer_file, self.column = tokenizer_file, column
        self.train_split, self.test_split, self.test_rows = train_split, test_split, test_rows
        self.num_workers, self.tested_on = num_workers, test_split
        self.encoder: Encoder | None = None
        self.characters_per_token = 0.0
        """Of the test split; a row of n characters counts n + 1, one for its end."""
        self.places = Places()

    def open(self, split: str) -> Any:
        """Return the column of a split, to be streamed.

        Raises:
            ValueError: there is no such column.
        """
        import datasets

        with opening(self.path, self.config) as place:
            rows = datasets.load_dataset(place, self.config, split=split, streaming=True)
            names = rows.column_names or list(next(iter(rows), {}))
        if self.column not in names:
            listing = ", ".join(names)
            raise ValueError(f"path {self.path!r} has no column {self.column!r}; it has {listing}")
        return rows.select_columns([self.column])

    def setup(self, stage: str | None = None) -> None:
        """Open the stream, train or read the tokenizer, and read the test split."""
        if self.encoder is not None:
            return
        import datasets

        with opening(self.path, self.config) as place:
            names = datasets.get_dataset_split_names(place, self.config)
        check_known(f"split of {self.path!r}", self.train_split, names)
        tested_on = choose_test_split(self.path, names, self.train_split, self.test_split)
        if not isinstance(tested_on, str):
            raise ValueError(f"path {self.path!r} has no split to test on; it has {names[0]!r}")
        self.tested_on, self.rows = tested_on, self.open(self.train_split)
        self.encoder = self._encoder()
        texts = self._texts(self.open(tested_on), self.test_rows)
        tokens = [n for ids in self.encoder.encode(texts, ends=False) for n in [*ids, EOS]]
        self.characters_per_token = sum(len(text) + 1 for text in texts) / max(1, len(tokens))
        self.test_set = Windows(tokens, self.length)
        if len(self.test_set) == 0:
            raise ValueError(
                f"path {self.path!r}, split {tested_on!r}: {len(tokens)} tokens are too few for "
                f"a window of length {self.length} + 1"
            )

    def _texts(self, rows: Any, count: int) -> list[str]:
        """Return the texts of the first rows.

        Raises:
            ValueError: the column does not hold texts.
        """
        cells = [row[self.column] for row in rows.take(count)]
        for kind in {type(cell) for cell in cells} - {str, type(None)}:
            column = f"path {self.path!r}, column {self.column!r}"
            raise ValueError(f"{column}: not text but {kind.__name__}")
        return [cell for cell in cells if cell and cell.strip()]

    def _encoder(self) -> Encoder:
        """Read the tokenizer, or train it on the first rows."""
        if self.tokenizer_file is None:
            texts = self._texts(self.rows, self.tokenizer_rows)
            if not texts:
                raise ValueError(f"path {self.path!r}: there is no text in the first rows")
            return self.tokenizer.train(texts)
        file = Path(self.tokenizer_file).expanduser()
        try:
            return Encoder.from_json(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"tokenizer_file {str(file)!r}: {problem}") from None

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the places where the shares stand.

        Raises:
            ValueError: the trainer has no end.
        """
        assert self.encoder is not None
        trainer = self.trainer
        if trainer and trainer.max_steps == -1 and not isinstance(trainer.limit_train_batches, int):
            raise ValueError("the text has no end: set trainer.max_steps")
        place = place_among_processes(trainer)
        sizes = self.batch_size, self.length
        data = Streamed(self.rows, self.encoder, self.column, *sizes, *place, self.places)
        return ResumableLoader(data, batch_size=None, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """The windows of the test split, once."""
        order = order_once(self.trainer, len(self.test_set), self.batch_size)
        return batches(self.test_set, order, workers=0)

    def on_before_batch_transfer(self, batch: dict[str, Any], _: int) -> dict[str, Any]:
        """Note the place that a training batch brings."""
        if PLACE in batch:
            self.places.move(batch[PLACE])
        return {name: value for name, value in batch.items() if name != PLACE}

    def state_dict(self) -> dict[str, Any]:
        """Return the places of all processes, for a checkpoint."""
        own = {"next": self.places.next, "of": self.places.of}
        _, processes = place_among_processes(self.trainer)
        every: list[Any] = [own]
        if processes > 1:
            every = [None] * processes
            torch.distributed.all_gather_object(every, own)
        return {"places": every, "workers": self.num_workers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the places of a checkpoint.

        Raises:
            ValueError: it is from another number of processes or workers.
        """
        rank, processes = place_among_processes(self.trainer)
        found = len(state_dict["places"]), state_dict["workers"]
        if found != (processes, self.num_workers):
            raise ValueError(
                f"the checkpoint is from {found[0]} processes with {found[1]} workers, this is "
                f"{processes} with {self.num_workers}: the rows are shared out by them"
            )
        self.places.of = dict(state_dict["places"][rank]["of"])
        self.places.next = state_dict["places"][rank]["next"]

    @property
    def sizes(self) -> dict[str, int]:
        """What networks need to know of the data, by the names of their arguments."""
        assert self.encoder is not None
        return {"vocabulary_size": len(self.encoder), "max_length": self.length}

    def usage(self) -> dict[str, Any]:
        """Name the tokens that the network's numbers stand for: see `dlreview.usage`."""
        assert self.encoder is not None
        return {
            "data": self.path,
            "split": self.tested_on,
            "tokenizer": self.encoder.json,
            "characters_per_token": self.characters_per_token,
        }
