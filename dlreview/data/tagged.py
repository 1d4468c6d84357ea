"""Sentences with a tag for each word, as numbers of words, of their letters, and of tags."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from torch import Tensor
from torch.utils.data import Dataset

from dlreview.data.corpus import Ragged
from dlreview.data.splits import TwoSplits
from dlreview.data.text import UNKNOWN, TaggedSentence, TaggedText, Vocabulary
from dlreview.messages import check_at_least

NO_TAG = -1  # at places without a word
LONGEST = 20  # letters of a word that are read: the first ten and the last ten of a longer word


def spell(
    forms: list[str], letters: dict[str, int], longest: int = LONGEST
) -> Int32[np.ndarray, "forms {longest}"]:
    """Write words as the numbers of their letters, from 1 (1 is <unk>), filled up with 0.

    A word of more than `longest` letters keeps its first and its last letters, one half each.
    """
    table = np.zeros((len(forms), longest), dtype=np.int32)
    for row, form in enumerate(forms):
        if len(form) > longest:
            form = form[: longest - longest // 2] + form[len(form) - longest // 2 :]
        table[row, : len(form)] = [letters.get(letter, 0) + 1 for letter in form]
    return table


class Sentences(Dataset[Any]):
    """Sentences in memory; a batch is padded to its longest sentence.

    Args:
        forms: sentences as numbers of written forms.
        tags: their tags.
        word: the word number of each form.
        spelling: the letters of each form, from 1, filled up with 0.
        known: number of different tags of each form in the training split.
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


def known_tags(rows: list[TaggedSentence], forms: list[str]) -> list[int]:
    """Count the different tags that each form has in `rows`, whatever its capitals are."""
    tags: dict[str, set[str]] = defaultdict(set)
    for words, marks in rows:
        for word, tag in zip(words, marks, strict=True):
            tags[word.lower()].add(tag)
    return [len(tags.get(form.lower(), ())) for form in forms]


class Tagged(TwoSplits):
    """Batches of sentences: "words", "form", "tags" (batch, time), "lengths", "spellings", "known".

    Word numbers ignore capitals; a word that occurs less than `min_count` times is <unk>. `form` is
    the row of a word in `spellings`, which holds its letters with their capitals, and in `known`,
    which holds the number of its different tags in the training split.

    Args:
        path: `python-source` (embedded: the tokens of Python's own library and their roles), a
            folder that `datasets` reads, or a name on the hub.
        batch_size: sentences per process and step.
        min_count: how often a word must occur in the training split to have its own number.
        vocabulary_size: largest number of words to keep, the most frequent, with <unk>; null for
            all.
        strip_tags: regular expression of what to remove from tags; by default Brown's marks for
            titles, headlines and cited words. Null keeps tags as they are.
        column: column that holds the sentences, with blanks between words, or lists of words.
        tag_column: column that holds their tags in the same form; numbers get the names that the
            data set gives them.
        train_split: split to train on.
        test_split: split to validate on; `val/...` metrics are measured there. A number in (0, 1)
            is a share of the training split, chosen by the recipe's seed. Without a split "test",
            "test" is the validation split, or 0.1 of the training split if that is the only one.
        num_workers: processes that fetch batches; the text is in memory, so that 0 is right.
        config: name of the data set's configuration, where it has several.

    Raises:
        ValueError: a size is not positive, or there is no such data, column or split, no text in
            it, or a sentence has more or fewer tags than words.
        OSError: the hub cannot be reached.
    """

    row_name = "sentences"
    gives = ("words", "form", "tags", "lengths", "spellings", "known")

    def __init__(  # one argument for each property of a text
        self,
        path: str,
        batch_size: int = 32,
        min_count: int = 2,
        vocabulary_size: int | None = None,
        strip_tags: str | None = "(-(tl|hl|nc))+$",
        column: str = "text",
        tag_column: str = "tags",
        train_split: str = "train",
        test_split: float | str = "test",
        num_workers: int = 0,
        config: str | None = None,
    ) -> None:
        super().__init__(path, batch_size, train_split, test_split, num_workers, config=config)
        check_at_least(1, min_count=min_count)
        check_at_least(2, vocabulary_size=vocabulary_size)
        try:
            self.mark = re.compile(strip_tags) if strip_tags else None
        except re.error as error:
            raise ValueError(f"strip_tags {strip_tags!r} is no expression: {error}") from None
        self.min_count, self.vocabulary_size = min_count, vocabulary_size
        self.column, self.tag_column = column, tag_column
        self.words: Vocabulary | None = None

    def read(self) -> tuple[Sentences, Sentences]:
        """Read both splits; number the words, letters and tags of the training split."""
        text = TaggedText(self.path, self.column, self.tag_column, self.config)
        train, test = (
            [(words, self._strip(tags)) for words, tags in rows]
            for rows in self.read_lists(text.names, text.read)
        )
        self.check_rows(train)
        sentences = [words for words, _ in train]
        self.forms = Vocabulary(words for words, _ in [*train, *test])
        self.words = Vocabulary(
            ([word.lower() for word in words] for words in sentences),
            self.min_count,
            self.vocabulary_size,
            [UNKNOWN],
        )
        self.letters = Vocabulary([list(w) for s in sentences for w in s], specials=[UNKNOWN])
        self.tags = Vocabulary((tags for _, tags in train), specials=[UNKNOWN])
        return self._encode(train, test)

    def _strip(self, tags: list[str]) -> list[str]:
        """Remove the marks from tags that are more than a mark."""
        mark = self.mark
        return tags if mark is None else [mark.sub("", tag) or tag for tag in tags]

    def _encode(
        self, train: list[TaggedSentence], test: list[TaggedSentence]
    ) -> tuple[Sentences, Sentences]:
        """Return both splits as numbers."""
        assert self.words is not None
        forms = self.forms.words
        tables = (
            torch.tensor(self.words.encode(form.lower() for form in forms)),
            torch.from_numpy(spell(forms, self.letters.index)),
            torch.tensor(known_tags(train, forms)),
        )
        train_set, test_set = (
            Sentences(
                Ragged([self.forms.encode(words) for words, _ in rows]),
                Ragged([self.tags.encode(tags) for _, tags in rows]),
                *tables,
            )
            for rows in (train, test)
        )
        return train_set, test_set

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
        """Name what the network's numbers stand for: see `dlreview.usage`."""
        assert self.words is not None
        return {
            "data": self.path,
            "split": self.tested_on,
            "words": self.words.words,
            "letters": self.letters.words,
            "longest": LONGEST,
            "tags": self.tags.words,
        }
