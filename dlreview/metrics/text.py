"""How near written texts are to wanted ones: equal texts, shared words, BLEU and chrF.

BLEU: Papineni et al. 2002; chrF: Popović 2015. Both as sacrebleu computes them for a corpus (Post
2018, arXiv:1804.08771), in percent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def exact_match(written: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the share of texts that are equal to what was wanted; 0 of no texts."""
    equal = sum(w == v for w, v in zip(written, wanted, strict=True))
    return equal / max(1, len(wanted))


def word_overlap(written: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the mean F1 of the words that two texts share, counted with repetitions.

    F1 = 2 shared / (words written + words wanted); 1 of two empty texts.
    """
    total = 0.0
    for one, other in zip(written, wanted, strict=True):
        mine, theirs = Counter(one.split()), Counter(other.split())
        words = mine.total() + theirs.total()
        total += 2 * (mine & theirs).total() / words if words else 1.0
    return total / max(1, len(wanted))


def bleu(written: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the corpus BLEU in percent, with sacrebleu's default tokenizer (13a)."""
    from sacrebleu.metrics.bleu import BLEU

    return float(BLEU().corpus_score(list(written), [list(wanted)]).score) if wanted else 0.0


def chrf(written: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the corpus chrF2 in percent."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(list(written), [list(wanted)]).score) if wanted else 0.0


def most_frequent(texts: Sequence[str]) -> str:
    """Return the most frequent text, of several the first by the alphabet; "" of none."""
    counts = Counter(texts)
    return min(counts, key=lambda text: (-counts[text], text), default="")
