"""Sentences with a tag for each word: numbers of words, of their letters, and of tags."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dlreview.data.corpus import Ragged
from dlreview.data.order import batches, check_sizes, order_once, training_order
from dlreview.data.text import UNKNOWN, Vocabulary, read_tagged

NO_TAG = -1  # where there is no word
LONGEST = 20  # letters of a word that are read: of a longer one, the first and the last ten


def spell(
    forms: list[str], letters: dict[str, int], longest: int = LONGEST
) -> Int32[np.ndarray, "forms {longest}"]:
    """Write words as the numbers of their letters, from 1 (letter 0 is <unk>), filled up with 0.

    Of a word longer than `longest` the first and the last half of that are read.
    """
    table = np.zeros((len(forms), longest), dtype=np.int32)
    for row, form in enumerate(forms):
        if len(form) > longest:
            form = form[: longest - longest // 2] + form[len(form) - longest // 2 :]
        table[row, : len(form)] = [letters.get(letter, 0) + 1 for letter in form]
    return table


class Sentences(Dataset[Any]):
    """Sentences in memory; a batch is padded to its longest.

    Args:
        forms: each sentence as numbers of written forms.
        tags: each sentence's tags.
        word: the number of each form's word.
        spelling: the letters of each form, from 1, filled up with 0.
        known: how many different tags each form has in the training split.
    """

    def __init__(
        self, forms: Ragged, tags: Ragged, word: Tensor, spelling: Tensor, known: Tensor
    ) -> None:
        self.forms, self.tags, self.known = forms, tags, known
        self.word, self.spelling = word, spelling

    def __len__(self) -> int:
        return len(self.forms)

    def __getitem__(self, rows: list[int]) -> dict[str, Tensor]:
        part, tags = self.forms[rows], self.tags[rows]["text"].long()
        lengths = part["bounds"].diff()
        longest = int(lengths.max()) if rows else 0
        here = torch.arange(longest) < lengths[:, None]
        different, form = part["text"].long().unique(return_inverse=True)
        batch = {
            "words": here.long().masked_scatter(here, self.word[different][form]),
            "form": here.long().masked_scatter(here, form),
            "tags": torch.full(here.shape, NO_TAG).masked_scatter(here, tags),
        }
        spellings, known = self.spelling[different].long(), self.known[different]
        return batch | {"lengths": lengths, "spellings": spellings, "known": known}


class Tagged(LightningDataModule):
    """Batches of sentences: "words", "form", "tags" (batch, time), "lengths", "spellings", "known".

    Words count without capitals and from `min_count` on; the others are <unk>. `form` says which
    row of `spellings` is a word's letters, capitals and all, and which entry of `known` says how
    many different tags the word has in the training split.

    Args:
        path: `python-source` (embedded: Python's own library, each token with what it is there), a
            folder that `datasets` reads, or a name on the hub.
        batch_size: sentences per process and step.
        min_count: how often a word must occur in the training split to have its own number.
        vocabulary_size: words to keep at most, the most frequent, <unk> included; null for all.
        strip_tags: what to remove from the end of tags, a regular expression; by default Brown's
            marks for titles, headlines and cited words. Null keeps tags as they are.
        column: column that holds the sentences, words apart by blanks.
        tag_column: column that holds their tags.
        train_split: split to train on.
        test_split: split to validate on; `val/...` metrics are measured there.
        num_workers: processes that fetch batches; the text is in memory, so that 0 is right.

    Raises:
        ValueError: a size is not positive, or there is no such data, column or split, no text in
            it, or a sentence has more or fewer tags than words.
        OSError: the hub cannot be reached.
    """

    gives = ("words", "form", "tags", "lengths", "spellings", "known")

    def __init__(
        self,
        path: str,
        batch_size: int = 32,
        min_count: int = 2,
        vocabulary_size: int | None = None,
        strip_tags: str | None = "(-(tl|hl|nc))+$",
        column: str = "text",
        tag_column: str = "tags",
        train_split: str = "train",
        test_split: str = "test",
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(num_workers, batch_size=batch_size, min_count=min_count)
        if vocabulary_size is not None and vocabulary_size < 2:
            raise ValueError(f"vocabulary_size must be at least 2, got {vocabulary_size}")
        try:
            self.mark = re.compile(strip_tags) if strip_tags else None
        except re.error as error:
            raise ValueError(f"strip_tags {strip_tags!r} is no expression: {error}") from None
        self.path, self.batch_size = path, batch_size
        self.min_count, self.vocabulary_size = min_count, vocabulary_size
        self.column, self.tag_column = column, tag_column
        self.train_split, self.test_split = train_split, test_split
        self.num_workers = num_workers
        self.words: Vocabulary | None = None
        self.train_set: Sentences | None = None
        self.test_set: Sentences | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read both splits once; number words, letters and tags by the first."""
        if self.words is not None:
            return
        splits = [
            read_tagged(self.path, split, self.column, self.tag_column)
            for split in (self.train_split, self.test_split)
        ]
        if self.mark is not None:
            mark = self.mark
            splits = [(s, [[mark.sub("", t) or t for t in row] for row in g]) for s, g in splits]
        (train, train_tags), (test, _) = splits
        if len(train) < self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the {len(train)} sentences of "
                f"{self.path!r}"
            )
        self.forms = Vocabulary([*train, *test])
        lowered = [[word.lower() for word in sentence] for sentence in train]
        self.words = Vocabulary(lowered, self.min_count, self.vocabulary_size, [UNKNOWN])
        self.letters = Vocabulary([list(word) for s in train for word in s], specials=[UNKNOWN])
        self.tags = Vocabulary(train_tags, specials=[UNKNOWN])
        seen: dict[str, set[str]] = defaultdict(set)
        for sentence, marks in zip(lowered, train_tags, strict=True):
            for word, tag in zip(sentence, marks, strict=True):
                seen[word].add(tag)
        known = torch.tensor([len(seen.get(form.lower(), ())) for form in self.forms.words])
        tables = (
            torch.tensor(self.words.encode(form.lower() for form in self.forms.words)),
            torch.from_numpy(spell(self.forms.words, self.letters.index)),
            known,
        )
        self.train_set, self.test_set = (
            Sentences(
                Ragged([self.forms.encode(s) for s in sentences]),
                Ragged([self.tags.encode(row) for row in marks]),
                *tables,
            )
            for sentences, marks in splits
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled full batches, from where the trainer stands."""
        assert self.train_set is not None
        order = training_order(self.trainer, len(self.train_set), self.batch_size)
        return batches(self.train_set, order, self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """Every sentence of the test split once, in order."""
        assert self.test_set is not None
        order = order_once(self.trainer, len(self.test_set), self.batch_size)
        return batches(self.test_set, order, self.num_workers)

    @property
    def sizes(self) -> dict[str, int]:
        """What networks need to know of the data, by the names of their arguments."""
        assert self.words is not None
        return {
            "vocabulary_size": len(self.words),
            "num_tags": len(self.tags),
            "letters": len(self.letters),
        }

    def usage(self) -> dict[str, Any]:
        """Tell what the network's numbers are: see `dlreview.usage`."""
        assert self.words is not None
        return {
            "data": self.path,
            "split": self.test_split,
            "words": self.words.words,
            "letters": self.letters.words,
            "longest": LONGEST,
            "tags": self.tags.words,
        }
