"""Images with a text each, a caption or a name: for captioning, and for vision with language."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from dlreview.data.corpus import Ragged
from dlreview.data.digits import EMBEDDED
from dlreview.data.images import Images, Pictures
from dlreview.data.lengths import pad
from dlreview.data.numbers import in_words
from dlreview.data.order import Rows, Share
from dlreview.data.tokenizer import EOS, Encoder, Tokenizer, Words
from dlreview.messages import check_at_least
from dlreview.randomness import hash_seed, seed

Captions = list[list[str]]  # those of each picture


class Captioned(Dataset[dict[str, Any]]):
    """Pictures and their captions; a batch has "ids", "mask" and "row", and what pictures have.

    Args:
        pictures: the pictures.
        captions: token numbers of the captions of each picture, at least one.
        draw: draw one of several captions in each epoch; otherwise the first is taken.
    """

    def __init__(
        self, pictures: Rows | Pictures, captions: list[list[list[int]]], draw: bool
    ) -> None:
        self.pictures, self.draw = pictures, draw
        self.captions = Ragged([ids for one in captions for ids in one])
        self.count = torch.tensor([len(one) for one in captions])
        self.first = self.count.cumsum(0) - self.count

    def __len__(self) -> int:
        return len(self.pictures)

    def choose(self, rows: list[int], epoch: int) -> list[int]:
        """Return the row of the caption of each picture."""
        first, count = self.first[rows].tolist(), self.count[rows].tolist()
        if not self.draw:
            return list(first)
        drawn = [hash_seed(seed(), epoch, row) for row in rows]
        return [f + number % n for f, number, n in zip(first, drawn, count, strict=True)]

    def __getitem__(self, rows: list[int]) -> dict[str, Any]:
        share = rows if isinstance(rows, Share) else Share(rows, rows, len(rows), 0)
        own, together = (self.choose(part, share.epoch) for part in (share, share.together))
        ids, mask = pad(self.captions, Share(own, together, share.full, share.epoch))
        row = torch.tensor(rows, dtype=torch.int64)
        return self.pictures[share] | {"ids": ids, "mask": mask, "row": row}


class ImageText(Images):
    """Batches {"image": pixels in [-1, 1], "ids": <bos> ... <eos>, "mask", "row"} with texts.

    Texts are padded with <pad>; "mask" is True at their tokens; "row" are the numbers of the
    pictures in their split. Pictures without a text are left out, and their number is told. Of
    several texts of a picture one is drawn in each epoch, and the first is for validation. What
    `Images` says of pictures holds here too.

    Args:
        path: `digits` (embedded), a folder that `datasets` reads, or a name on the hub.
        batch_size: images per process and step.
        text_column: column that holds the text, or a list of texts; null for the names of the
            classes in the words of `template`. Batches have "label" too then.
        template: the text of a class, with {} for its name; digits are written as words.
        length: largest number of tokens of a text, with <bos> and <eos>; longer ones are cut, and
            their number is told.
        tokenizer: what a token is; null for `Words`. It is trained on the training split.
        **pictures: the other arguments of `Images`.

    Raises:
        ValueError: `template` has no {}, `length` is below 3, no picture has a text, and what
            `Images` refuses.
        OSError: the hub cannot be reached.
    """

    gives = ("image", "ids", "mask", "row")

    def __init__(
        self,
        path: str = EMBEDDED,
        batch_size: int = 128,
        text_column: str | None = None,
        template: str = "a photo of a {}",
        length: int = 64,
        tokenizer: Tokenizer | None = None,
        **pictures: Any,
    ) -> None:
        super().__init__(path, batch_size, **pictures)
        check_at_least(3, length=length)
        if "{}" not in template:
            raise ValueError(f"template {template!r} has no {{}} for the name of the class")
        if text_column is not None:
            self.label_column = None
        elif self.label_column is None:
            raise ValueError("text_column and label_column are both null: there is no text")
        self.text_column, self.template, self.length = text_column, template, length
        self.tokenizer = tokenizer or Words()
        self.encoder: Encoder | None = None
        self.gives = type(self).gives  # not those of pictures with labels

    def read(self) -> tuple[Captioned, Captioned]:
        """Read both splits, and train the tokenizer on the texts of the training split."""
        splits = self.pictures()
        self.class_names = [in_words(int(n)) if n.isdecimal() else n for n in self.class_names]
        train, test = (self._captions(pictures) for pictures in splits)
        self.encoder = self.tokenizer.train(text for texts in train for text in texts)
        train_pictures, test_pictures = self.decode(*splits)
        return (
            Captioned(train_pictures, self._encode(train), draw=True),
            Captioned(test_pictures, self._encode(test), draw=False),
        )

    def _captions(self, pictures: Pictures) -> Captions:
        """Return the texts of the pictures, and leave out those without a text.

        Raises:
            ValueError: the column does not hold texts, or no picture has one.
        """
        if self.text_column is None:
            assert pictures.labels is not None
            texts = [self.template.replace("{}", name) for name in self.class_names]
            return [[texts[label]] for label in pictures.labels[pictures.rows].tolist()]
        if self.source is None:
            raise ValueError(f"path {self.path!r} has no column {self.text_column!r}")
        cells = self.source.read(pictures.split, self.text_column)[self.text_column][:]
        captions = [self._texts(cells[row]) for row in pictures.rows.tolist()]
        whole = torch.tensor([bool(texts) for texts in captions])
        if not whole.any():
            raise ValueError(f"{pictures.where}: no picture has a text")
        if not whole.all():
            missing = int((~whole).sum())
            rank_zero_only(print)(
                f"{pictures.where}: {missing} of {len(whole)} pictures have no text, left out"
            )
        pictures.rows = pictures.rows[whole]
        return [texts for texts in captions if texts]

    def _texts(self, cell: Any) -> list[str]:
        """Return the texts of a cell that are not empty."""
        texts = cell if isinstance(cell, list) else [cell]
        for kind in {type(text) for text in texts} - {str, type(None)}:
            column = f"path {self.path!r}, column {self.text_column!r}"
            raise ValueError(f"{column}: not text but {kind.__name__}")
        return [text.strip() for text in texts if text and text.strip()]

    def _encode(self, captions: Captions) -> list[list[list[int]]]:
        """Return the token numbers of captions, cut to `length`."""
        assert self.encoder is not None
        most = self.length
        whole = self.encoder.encode([text for texts in captions for text in texts])
        if longer := sum(len(ids) > most for ids in whole):
            line = f"{longer} of {len(whole)} texts have more than {most} tokens (length), cut"
            rank_zero_only(print)(f"{self.path}: {line}")
        flat = iter(ids if len(ids) <= most else [*ids[: most - 1], EOS] for ids in whole)
        return [[next(flat) for _ in texts] for texts in captions]

    @property
    def sizes(self) -> dict[str, Any]:
        """What networks need to know of the data, by the names of their arguments."""
        assert self.encoder is not None
        sizes = {name: size for name, size in super().sizes.items() if name != "num_classes"}
        return sizes | {"vocabulary_size": len(self.encoder), "max_length": self.length}

    def usage(self) -> dict[str, Any]:
        """Describe the network's images and name its tokens: see `dlreview.usage`."""
        assert self.encoder is not None
        text: dict[str, Any] = {"tokenizer": self.encoder.json, "max_length": self.length}
        if self.text_column is None:
            text["template"] = self.template
        return super().usage() | text
