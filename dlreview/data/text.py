"""Text as sentences of tokens: the embedded language reference, local files, data sets of the hub.

`python-reference` is the module `pydoc_data.topics` of every CPython: some 65,000 words of English
about Python, without a download. Its text differs slightly between versions of Python.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dlreview.data.contents import ARCHIVES, TABLES, why_a_file_is_wrong
from dlreview.data.python_source import EMBEDDED_SOURCE, python_source
from dlreview.data.sources import Source, locate, refuse_config
from dlreview.messages import check_at_least, check_known

EMBEDDED = "python-reference"
SPLITS = ("train", "test")
UNKNOWN = "<unk>"
BYTE_ORDER_MARK = "\ufeff"
Sentences = list[list[str]]
TaggedSentence = tuple[list[str], list[str]]  # words, tags


class Vocabulary:
    """Number the words of a text, the most frequent first, after `specials`.

    Args:
        sentences: the text to count.
        min_count: how often a word must occur to be in the vocabulary.
        size: largest number of words to keep, with specials; None for all.
        specials: words that come first, whether they occur or not.

    Raises:
        ValueError: no word is frequent enough, or an argument is not positive.
    """

    def __init__(
        self,
        sentences: Iterable[Sequence[str]],
        min_count: int = 1,
        size: int | None = None,
        specials: Sequence[str] = (),
    ) -> None:
        check_at_least(1, min_count=min_count)
        check_at_least(len(specials) + 1, size=size)
        counted = Counter(word for sentence in sentences for word in sentence)
        # Equally frequent words are in the order of the alphabet, not of the text.
        ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        kept = [(w, n) for w, n in ranked if n >= min_count and w not in specials]
        if not kept:
            most = (
                f"the most frequent of {len(ranked)} occurs {ranked[0][1]} times" if ranked else ""
            )
            raise ValueError(f"no word occurs {min_count} times: {most or 'the text is empty'}")
        kept = kept[: None if size is None else size - len(specials)]
        self.words = [*specials, *(word for word, _ in kept)]
        self.counts = [counted[word] for word in self.words]
        self.index = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.index

    def encode(self, sentence: Iterable[str]) -> list[int]:
        """Number the words; unknown ones get the number of `<unk>`, or are left out without it."""
        unknown = self.index.get(UNKNOWN)
        numbers = (self.index.get(word, unknown) for word in sentence)
        return [number for number in numbers if number is not None]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Return the words of numbers."""
        return [self.words[number] for number in numbers]


def tokenize(text: str) -> list[str]:
    """Split into words, with inner hyphens and apostrophes, and single punctuation marks."""
    return re.findall(r"\w+(?:[-'’]\w+)*|[^\w\s]", text)


def python_reference(split: str) -> list[str]:
    """Return the paragraphs of Python's language reference; every tenth is for testing.

    Raises:
        ValueError: `split` is neither "train" nor "test", or this Python comes without the text.
    """
    check_known(f"split of {EMBEDDED!r}", split, SPLITS)
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError(f"path {EMBEDDED!r}: this Python comes without pydoc_data") from None
    paragraphs = []
    for name in sorted(topics):
        text = re.sub(r"([*=~^#|+-])\1{2,}", " ", topics[name])  # lines and borders of tables
        text = re.sub(r"-\n\s*", "-", text)  # words that were broken at a hyphen
        paragraphs += [part.strip() for part in re.split(r"\n\s*\n", text)]
    whole = [paragraph for paragraph in paragraphs if paragraph]
    return [p for i, p in enumerate(whole) if (i % 10 == 9) == (split == "test")]


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a UTF-8 file, each with its end as \n.

    A line ends with \n, \r\n or \r, and with nothing else: other separators of Unicode are blanks.
    A byte-order mark is dropped.

    Raises:
        ValueError: the file is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")  # which turns \r\n and \r into \n
    except UnicodeDecodeError as error:
        raise ValueError(f"path {str(path)!r} is not UTF-8: byte {error.start}") from None
    *lines, rest = text.removeprefix(BYTE_ORDER_MARK).split("\n")
    return [line + "\n" for line in lines] + ([rest] if rest else [])


class Strings(Source):
    """Columns of text of a data set, one list for each."""

    def columns(self, split: str, *names: str) -> list[list[str]]:
        """Read columns of text, or of lists of tokens, which are joined by blanks.

        Numbers in a list become the names of their classes where the data set states them, as hub
        sets of tags do, else their digits. A blank within a token becomes "_", so that a token is
        one word everywhere; so does a token of blanks alone. A missing value is an empty string.

        Raises:
            ValueError: there is no such split or column, or it holds something else.
        """
        rows = self.read(split, *names)
        found = []
        for name in names:
            class_names = getattr(getattr(rows.features[name], "feature", None), "names", None)
            where = f"path {self.path!r}, column {name!r}"
            found.append([text_of(cell, class_names, where) for cell in rows[name][:]])
        return found


def text_of(cell: Any, class_names: Sequence[str] | None, where: str) -> str:
    """Return the text of one cell; see `Strings.columns`.

    Raises:
        ValueError: the cell holds neither text nor tokens.
    """
    if isinstance(cell, str | None):
        return (cell or "").removeprefix(BYTE_ORDER_MARK)
    if not isinstance(cell, list):
        raise ValueError(f"{where}: not text but {type(cell).__name__}")
    tokens = []
    for token in cell:
        if isinstance(token, bool) or not isinstance(token, str | int):
            raise ValueError(f"{where}: a list of {type(token).__name__}, not of tokens")
        if isinstance(token, int) and class_names is not None:
            if not 0 <= token < len(class_names):
                raise ValueError(f"{where}: class {token}\nvalid: 0..{len(class_names) - 1}")
            token = class_names[token]
        tokens.append("_".join(str(token).split()) or "_")
    return " ".join(tokens)


class Text:
    """A text by its splits, as sentences of tokens, which are split at blanks.

    The embedded text is split by `tokenize`.

    Args:
        path: `python-reference`, a UTF-8 file, a folder that `datasets` reads, or a hub name.
        column: column of a data set that holds text or lists of tokens; phrases_joined_so stay
            single tokens.
        lowercase: write all words in small letters.
        config: name of the data set's configuration, where it has several.

    Raises:
        ValueError: there are no such data.
        OSError: the hub cannot be reached.
    """

    def __init__(
        self,
        path: str,
        column: str = "text",
        lowercase: bool = True,
        config: str | None = None,
    ) -> None:
        self.path, self.column, self.lowercase = path, column, lowercase
        self.file = self.source = None
        self.names: tuple[str, ...] = SPLITS
        if path == EMBEDDED:
            refuse_config(path, config)
            return
        if (place := Path(locate(path))).is_file():
            refuse_config(path, config)
            if place.suffix.lower() in ARCHIVES + TABLES:
                raise ValueError(f"path {path!r} {why_a_file_is_wrong(place)}")
            self.file, self.names = place, SPLITS[:1]
        else:
            self.source = Strings(path, config)
            self.names = tuple(self.source.names)

    @property
    def is_file(self) -> bool:
        """Whether rows are the lines of one text."""
        return self.file is not None

    def rows(self, split: str) -> list[str]:
        """Read a split as it is written: paragraphs, rows of the column or lines with their ends.

        Raises:
            ValueError: there is no such column or split, no text in it, or it is not UTF-8.
        """
        if self.file is not None:
            check_known(f"split of {self.path!r}", split, self.names)
            rows = read_lines(self.file)
        elif self.source is not None:
            (rows,) = self.source.columns(split, self.column)
        else:
            rows = python_reference(split)
        if not any(row.strip() for row in rows):
            raise ValueError(f"path {self.path!r}, split {split!r}: there is no text")
        return rows

    def read(self, split: str) -> Sentences:
        """Read a split as tokens; empty lines are left out.

        Raises:
            ValueError: see `rows`.
        """
        split_row = tokenize if self.path == EMBEDDED else str.split
        sentences = [split_row(row) for row in self.rows(split)]
        if self.lowercase:
            sentences = [[word.lower() for word in sentence] for sentence in sentences]
        return [sentence for sentence in sentences if sentence]


class TaggedText:
    """Sentences and the tags of their tokens by split: lists, or text that is split at blanks.

    Args:
        path: `python-source` (embedded), a folder that `datasets` reads, or a hub name.
        column: column that holds the sentences.
        tag_column: column that holds their tags.
        config: name of the data set's configuration, where it has several.

    Raises:
        ValueError: there are no such data.
        OSError: the hub cannot be reached.
    """

    def __init__(
        self,
        path: str,
        column: str = "text",
        tag_column: str = "tags",
        config: str | None = None,
    ) -> None:
        self.path, self.column, self.tag_column = path, column, tag_column
        if path == EMBEDDED_SOURCE:
            refuse_config(path, config)
        self.source = None if path == EMBEDDED_SOURCE else Strings(path, config)
        self.names = tuple(self.source.names) if self.source else SPLITS

    def read(self, split: str) -> list[TaggedSentence]:
        """Read a split as (tokens, tags).

        Raises:
            ValueError: there is no such column or split, no text in it, or a sentence has more or
                fewer tags than tokens.
        """
        if self.source is None:
            return list(zip(*python_source(split), strict=True))
        pairs = []
        columns = self.source.columns(split, self.column, self.tag_column)
        for row, (text, marks) in enumerate(zip(*columns, strict=True)):
            words, tags = text.split(), marks.split()
            if len(words) != len(tags):
                raise ValueError(
                    f"path {self.path!r}, split {split!r}, row {row}: "
                    f"{len(tags)} tags for {len(words)} tokens"
                )
            if words:
                pairs.append((words, tags))
        if not pairs:
            raise ValueError(f"path {self.path!r}, split {split!r}: there is no text")
        return pairs
