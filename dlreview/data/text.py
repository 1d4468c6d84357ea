"""Text as sentences of tokens: the embedded language reference, local files, data sets of the hub.

`python-reference` is what every CPython ships as `pydoc_data.topics`: some 65,000 words of English
about Python, without a download. Its text differs a little from one Python to the next.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from dlreview.data.images import locate, open_split
from dlreview.data.python_source import EMBEDDED_SOURCE, python_source

EMBEDDED = "python-reference"
SPLITS = ("train", "test")
UNKNOWN = "<unk>"
Sentences = list[list[str]]


class Vocabulary:
    """Number the words of a text, the most frequent first, after `specials`.

    Args:
        sentences: the text to count.
        min_count: how often a word must occur to be in.
        size: how many words to keep at most, specials included; None for all.
        specials: words put first, whether they occur or not.

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
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {min_count}")
        if size is not None and size <= len(specials):
            raise ValueError(f"size must be at least {len(specials) + 1}, got {size}")
        counted = Counter(word for sentence in sentences for word in sentence)
        # Words that are as frequent as each other go by the alphabet, whatever order they came in.
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


def python_reference(split: str) -> Sentences:
    """Return the paragraphs of Python's language reference; every tenth is for testing.

    Raises:
        ValueError: `split` is neither "train" nor "test", or this Python comes without the text.
    """
    if split not in SPLITS:
        raise ValueError(f"path {EMBEDDED!r} has the splits train and test, not {split!r}")
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError(f"path {EMBEDDED!r}: this Python comes without pydoc_data") from None
    paragraphs = []
    for name in sorted(topics):
        text = re.sub(r"([*=~^#|+-])\1{2,}", " ", topics[name])  # rulers and borders of tables
        text = re.sub(r"-\n\s*", "-", text)  # words that were broken at a hyphen
        paragraphs += [tokenize(part) for part in re.split(r"\n\s*\n", text)]
    whole = [paragraph for paragraph in paragraphs if paragraph]
    return [p for i, p in enumerate(whole) if (i % 10 == 9) == (split == "test")]


def text_file(path: Path) -> Sentences:
    """Return the lines of a UTF-8 file, split at blanks.

    Raises:
        ValueError: the file is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"path {str(path)!r} is not UTF-8: byte {error.start}") from None
    return [line.split() for line in lines if line.strip()]


def read_sentences(
    path: str, split: str, column: str = "text", lowercase: bool = True
) -> Sentences:
    """Read a split as sentences of tokens, which are split at blanks (embedded text: `tokenize`).

    Args:
        path: `python-reference`, a UTF-8 file, a folder that `datasets` reads, or a hub name.
        split: which part; a single file has one part, whatever it is called.
        column: where a data set keeps its text; phrases_joined_so stay single tokens.
        lowercase: fold capitals.

    Raises:
        ValueError: there is no such data, column or split, no text in it, or it is not UTF-8.
        OSError: the hub cannot be reached.
    """
    if path == EMBEDDED:
        sentences = python_reference(split)
    elif (file := Path(locate(path))).is_file():
        sentences = text_file(file)
    else:
        rows = read_column(path, split, column)
        sentences = [row.split() for row in rows if row and row.strip()]
    if not sentences:
        raise ValueError(f"path {path!r}, split {split!r}: there is no text")
    return [[word.lower() for word in s] for s in sentences] if lowercase else sentences


def read_tagged(
    path: str, split: str, column: str = "text", tags: str = "tags"
) -> tuple[Sentences, Sentences]:
    """Read sentences and the tag of each of their tokens, both split at blanks.

    Args:
        path: `python-source` (embedded), a folder that `datasets` reads, or a hub name.
        split: which part.
        column: where a data set keeps its sentences.
        tags: where it keeps their tags.

    Raises:
        ValueError: as `read_sentences`, or a sentence has more or fewer tags than tokens.
        OSError: the hub cannot be reached.
    """
    if path == EMBEDDED_SOURCE:
        return python_source(split)
    pairs = []
    columns = (read_column(path, split, name) for name in (column, tags))
    for row, (text, marks) in enumerate(zip(*columns, strict=True)):
        sentence, labels = (text or "").split(), (marks or "").split()
        if len(sentence) != len(labels):
            raise ValueError(
                f"path {path!r}, split {split!r}, row {row}: "
                f"{len(labels)} tags for {len(sentence)} tokens"
            )
        if sentence:
            pairs.append((sentence, labels))
    if not pairs:
        raise ValueError(f"path {path!r}, split {split!r}: there is no text")
    return [sentence for sentence, _ in pairs], [labels for _, labels in pairs]


def read_column(path: str, split: str, column: str) -> list[str | None]:
    """Read one column of strings.

    Raises:
        ValueError: there is no such column, or it does not hold strings.
    """
    source = open_split(path, split)
    if column not in source.column_names:
        listing = ", ".join(source.column_names)
        raise ValueError(f"path {path!r} has no column {column!r}; it has {listing}")
    values = source[column][:]
    for kind in {type(value) for value in values} - {str, type(None)}:
        raise ValueError(f"path {path!r}, column {column!r}: not text but {kind.__name__}")
    return values
