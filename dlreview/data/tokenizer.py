"""Tokenizers: from a text to the numbers of its tokens and back.

A tokenizer is a part of a recipe: it says what a token is, a character, a word, or a frequent piece
of a word (byte-pair encoding; Sennrich et al. 2016, arXiv:1508.07909). `train` counts a text and
returns an `Encoder`, which the library `tokenizers` runs. The first five tokens are `SPECIALS`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from dlreview.messages import check_at_least, one_line

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>", "<mask>")
PAD, UNK, BOS, EOS, MASK = range(len(SPECIALS))
UNWRITTEN = (PAD, UNK, BOS, MASK)  # no network writes them; <eos> ends a text
BYTES = 256
WORD = r"\w+(?:[-'’]\w+)*|[^\w\s]"  # as `dlreview.data.text.tokenize` splits
THREADS = "TOKENIZERS_PARALLELISM"  # the library's switch

if THREADS not in os.environ and hasattr(os, "register_at_fork"):
    # Worker processes are forked and must not use the library's threads, or they would wait for
    # ever. The library says so on stderr unless it is told beforehand.
    os.register_at_fork(
        before=lambda: os.environ.update({THREADS: "false"}),
        after_in_parent=lambda: os.environ.pop(THREADS, None),
    )


class Encoder:
    """A trained tokenizer.

    Args:
        tokenizer: the library's; its first tokens are `SPECIALS`.

    Raises:
        ValueError: the first tokens are others.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        found = [tokenizer.id_to_token(number) for number in range(len(SPECIALS))]
        if found != list(SPECIALS):
            raise ValueError(f"the first tokens must be {', '.join(SPECIALS)}, got {found}")
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    @property
    def json(self) -> dict[str, Any]:
        """The tokenizer as `tokenizer.json` holds it, which transformers reads too."""
        parsed: dict[str, Any] = json.loads(self.tokenizer.to_str())
        return parsed

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Encoder:
        """Make an encoder from what `json` gave.

        Raises:
            ValueError: the content is no tokenizer, or its first tokens are not `SPECIALS`.
        """
        try:
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises nothing more exact
            raise ValueError(f"this is no tokenizer: {one_line(str(error), 120)}") from None
        return cls(tokenizer)

    def encode(self, texts: Sequence[str], ends: bool = True) -> list[list[int]]:
        """Return the token numbers of each text.

        Args:
            texts: the texts. One of the `SPECIALS` that is written in a text is that token.
            ends: put <bos> before and <eos> behind each text.
        """
        encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=ends)
        return [one.ids for one in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token numbers, without the special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def decode_all(self, rows: Sequence[Sequence[int]], keep_unknown: bool = False) -> list[str]:
        """Return the texts of rows of token numbers, without the special tokens.

        With `keep_unknown` a part that is in no token is <unk> in the text, not left out.
        """
        kept = [list(row) for row in rows]
        if keep_unknown:
            kept = [[n for n in row if n == UNK or n >= len(SPECIALS)] for row in kept]
        found: list[str] = self.tokenizer.decode_batch(kept, skip_special_tokens=not keep_unknown)
        return found

    def tokens(self, ids: Sequence[int]) -> list[str]:
        r"""Return each token by itself, as it can be read: a piece of a text, or a special token.

        Characters that cannot be drawn are as Python writes them: \n for the end of a line.
        """
        texts = [
            SPECIALS[n] if n < len(SPECIALS) else self.tokenizer.decode([n]) for n in map(int, ids)
        ]
        return [text if text.isprintable() else repr(text)[1:-1] for text in texts]


class Tokenizer:
    """What a token is; the same text and arguments give the same encoder.

    A subclass has `make()`, the untrained tokenizer of the library, and `trainer()`.

    Args:
        vocabulary_size: largest number of tokens, the special ones included; None for all.
        lowercase: read all letters as small ones.
    """

    smallest = len(SPECIALS) + 1

    def __init__(self, vocabulary_size: int | None, lowercase: bool) -> None:
        check_at_least(self.smallest, vocabulary_size=vocabulary_size)
        self.vocabulary_size, self.lowercase = vocabulary_size, lowercase

    def make(self) -> tokenizers.Tokenizer:
        """Make the library's tokenizer."""
        raise NotImplementedError(f"{type(self).__name__} has no make()")

    def trainer(self) -> Any:
        """Make the library's trainer."""
        raise NotImplementedError(f"{type(self).__name__} has no trainer()")

    def train(self, texts: Iterable[str]) -> Encoder:
        """Choose the tokens of a text."""
        tokenizer = self.make()
        if self.lowercase:
            tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.train_from_iterator(texts, self.trainer())
        ends = [(SPECIALS[number], number) for number in (BOS, EOS)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", pair="<bos> $A <eos> $B:1 <eos>:1", special_tokens=ends
        )
        return Encoder(tokenizer)


class Characters(Tokenizer):
    """Each character is a token; one that the training text lacks is <unk>.

    Args:
        vocabulary_size: largest number of tokens, the special ones included; null for all.
        lowercase: read all letters as small ones.

    Raises:
        ValueError: `vocabulary_size` is too small for a character.
    """

    def __init__(self, vocabulary_size: int | None = None, lowercase: bool = False) -> None:
        super().__init__(vocabulary_size, lowercase)

    def make(self) -> tokenizers.Tokenizer:
        """Make the library's tokenizer."""
        tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token=SPECIALS[UNK]))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        return tokenizer

    def trainer(self) -> Any:
        """Make the library's trainer."""
        return word_trainer(self.vocabulary_size)


class Words(Tokenizer):
    """Each word and each punctuation mark is a token; blanks are lost, and rare words are <unk>.

    Args:
        vocabulary_size: largest number of tokens, the special ones included; null for all.
        lowercase: read all letters as small ones.

    Raises:
        ValueError: `vocabulary_size` is too small for a word.
    """

    def __init__(self, vocabulary_size: int | None = None, lowercase: bool = True) -> None:
        super().__init__(vocabulary_size, lowercase)

    def make(self) -> tokenizers.Tokenizer:
        """Make the library's tokenizer."""
        tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token=SPECIALS[UNK]))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
        return tokenizer

    def trainer(self) -> Any:
        """Make the library's trainer."""
        return word_trainer(self.vocabulary_size)


class BPE(Tokenizer):
    """Byte-pair encoding: the most frequent pair of tokens becomes a token, again and again.

    It begins with the 256 bytes, so that every text can be written and nothing is <unk>. Each digit
    is a token of its own, and no token reaches over the beginning of a word.

    Args:
        vocabulary_size: largest number of tokens, bytes and special ones included.
        lowercase: read all letters as small ones.

    Raises:
        ValueError: `vocabulary_size` is too small for the bytes and a pair.
    """

    smallest = len(SPECIALS) + BYTES + 1

    def __init__(self, vocabulary_size: int = 4000, lowercase: bool = False) -> None:
        super().__init__(vocabulary_size, lowercase)

    def make(self) -> tokenizers.Tokenizer:
        """Make the library's tokenizer."""
        tokenizer = tokenizers.Tokenizer(models.BPE())
        digits = pre_tokenizers.Digits(individual_digits=True)
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def trainer(self) -> Any:
        """Make the library's trainer."""
        assert self.vocabulary_size is not None
        return trainers.BpeTrainer(
            vocab_size=self.vocabulary_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )


def word_trainer(vocabulary_size: int | None) -> Any:
    """Make the library's trainer for whole words: the most frequent first, then by the alphabet."""
    size = 2**31 - 1 if vocabulary_size is None else vocabulary_size
    specials = list(SPECIALS)
    return trainers.WordLevelTrainer(vocab_size=size, special_tokens=specials, show_progress=False)
