"""gensim's KeyedVectors, in both directions, in memory and as files in the word2vec format.

The format has a line with the two sizes, then a line for each word and its numbers (text or
binary); `KeyedVectors.load_word2vec_format` and most other tools read it. It has only the input
vectors: a network that is read from it has output vectors of zeros, as before training. Of a word
that a file has twice the first line counts, as in gensim.

`from_reference` takes KeyedVectors, or a trained Word2Vec of gensim, and keeps the words and their
counts as `net.words` and `net.counts`; `to_reference(net, "gensim")` makes KeyedVectors of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dlreview.nn.word2vec import Word2Vec
from dlreview.reference.maps import Conversion

BINARY = "vectors.bin"
COUNT = "count"  # gensim's name of the attribute


def vectors_of(net: nn.Module, words: Sequence[str]) -> np.ndarray:
    """Return the input vectors of `words`, the first rows, in single precision.

    Raises:
        ValueError: the network is no Word2Vec, there are more words than rows or none, or a word
            comes twice, has a blank in it or cannot be written in UTF-8.
    """
    if not isinstance(net, Word2Vec):
        raise ValueError(f"gensim keeps word vectors, not a {type(net).__name__}")
    if not 0 < len(words) <= net.vocabulary_size:
        raise ValueError(f"{len(words)} words for a vocabulary_size of {net.vocabulary_size}")
    if len(set(words)) != len(words):
        raise ValueError("words must be different, but one occurs twice")
    for word in words:
        if not isinstance(word, str) or word.split() != [word]:
            raise ValueError(f"word {word!r} is empty or has a blank in it")
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise ValueError(f"word {word!r} cannot be written in UTF-8")
    return net.input.weight[: len(words)].detach().float().cpu().numpy()


def network_of(vectors: np.ndarray) -> Word2Vec:
    """Build a network with these input vectors."""
    net = Word2Vec(*vectors.shape)
    with torch.no_grad():
        net.input.weight.copy_(torch.from_numpy(np.array(vectors, dtype=np.float32)))
    return net


def to_gensim(net: nn.Module, words: Sequence[str], counts: Sequence[int] | None = None) -> Any:
    """Build gensim's KeyedVectors, with `get_vecattr(word, "count")` where `counts` are known.

    Raises:
        ValueError: see `vectors_of`, or there is not one count for each word.
    """
    from gensim.models import KeyedVectors

    vectors = vectors_of(net, words)
    if counts is not None and len(counts) != len(words):
        raise ValueError(f"there must be a count for each of {len(words)} words, got {len(counts)}")
    theirs = KeyedVectors(vectors.shape[1])
    theirs.add_vectors(list(words), vectors)
    for word, count in zip(words, counts or [], strict=False):
        theirs.set_vecattr(word, COUNT, int(count))
    return theirs


def from_gensim(theirs: Any) -> tuple[Word2Vec, list[str]]:
    """Build our network, and return it with its words, from KeyedVectors or a model that has them.

    A `gensim.models.Word2Vec` that was trained with negative sampling has output vectors too; they
    are copied. The network keeps the words and, where gensim has them, their counts. Rows without a
    word are left out; gensim has such rows after a file with a word twice.

    Raises:
        ValueError: there are no words.
    """
    keyed_vectors = getattr(theirs, "wv", theirs)
    names = keyed_vectors.index_to_key
    rows = [row for row, word in enumerate(names) if word is not None]
    if not rows:
        raise ValueError(f"this {type(theirs).__name__} has no words")
    net = network_of(keyed_vectors.vectors[rows])
    if (output := getattr(theirs, "syn1neg", None)) is not None:
        with torch.no_grad():
            net.output.weight.copy_(torch.from_numpy(np.array(output[rows], dtype=np.float32)))
    net.words = [names[row] for row in rows]
    if COUNT in keyed_vectors.expandos:
        net.counts = [int(keyed_vectors.get_vecattr(word, COUNT)) for word in net.words]
    return net, net.words


def from_theirs(theirs: Any) -> Word2Vec:
    """Build our network, which keeps the words."""
    return from_gensim(theirs)[0]


def to_theirs(ours: nn.Module) -> Any:
    """Build KeyedVectors of the words that the network came with.

    Raises:
        ValueError: the network does not know its words, or see `vectors_of`.
    """
    words = getattr(ours, "words", None)
    if words is None:
        raise ValueError(
            "this Word2Vec does not know its words; use reference.word2vec.to_gensim(net, words)"
        )
    return to_gensim(ours, words, getattr(ours, "counts", None))


def write_file(net: nn.Module, words: Sequence[str], path: Path, binary: bool = False) -> None:
    """Write the word2vec format, the whole file or none.

    Nine digits are enough to restore float32 bit for bit.

    Raises:
        ValueError: see `vectors_of`.
        OSError: the file cannot be written.
    """
    vectors = vectors_of(net, words)
    staged = path.with_name(f".{path.name}.tmp")
    try:
        with staged.open("wb") as file:
            file.write(f"{len(words)} {vectors.shape[1]}\n".encode())
            for word, vector in zip(words, vectors, strict=True):
                numbers = vector.astype("<f4").tobytes() if binary else _digits(vector)
                file.write(word.encode() + b" " + numbers + b"\n")
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def _digits(vector: np.ndarray) -> bytes:
    return " ".join(f"{value:.9g}" for value in vector.tolist()).encode()


def read_file(path: Path, binary: bool = False) -> tuple[Word2Vec, list[str]]:
    """Read the word2vec format; of a word that comes twice the first vector is kept.

    Raises:
        ValueError: the file is not in that format.
        OSError: the file cannot be read.
    """
    from gensim.models import KeyedVectors

    try:
        net, words = from_gensim(KeyedVectors.load_word2vec_format(path, binary=binary))
    except (ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{path} is not in the word2vec format: {error}") from error
    net.counts = None  # the format has none, and gensim makes some up
    return net, words


def write_gensim(ours: nn.Module, usage: Mapping[str, Any], folder: Path) -> str:
    """Write what `KeyedVectors.load_word2vec_format("FOLDER/vectors.bin", binary=True)` reads.

    Raises:
        ValueError: the network has no words, or gensim reads other words or vectors back.
    """
    words = [str(word) for word in usage.get("words") or []]
    write_file(ours, words, folder / BINARY, binary=True)
    copy, copied_words = read_file(folder / BINARY, binary=True)
    same_vectors = np.array_equal(vectors_of(copy, copied_words), vectors_of(ours, words))
    if copied_words != words or not same_vectors:
        raise ValueError("gensim reads other words or vectors than were written")
    return (
        "from gensim.models import KeyedVectors\n\n"
        f'vectors = KeyedVectors.load_word2vec_format("{{where}}/{BINARY}", binary=True)\n'
    )


FOLDERS = {"gensim": ("dlreview.nn.word2vec.Word2Vec", write_gensim)}
CONVERSIONS = [
    Conversion("dlreview.nn.word2vec.Word2Vec", theirs, "gensim", from_theirs, to_theirs)
    for theirs in ("gensim.models.keyedvectors.KeyedVectors", "gensim.models.word2vec.Word2Vec")
]
