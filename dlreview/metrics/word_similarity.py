"""Quality of word vectors: human similarity judgements, analogies, nearest neighbours.

WordSim-353 (Finkelstein et al. 2002), SimLex-999 (Hill et al. 2015, arXiv:1408.3456) and the
analogy questions of Mikolov et al. 2013 (arXiv:1301.3781) are files of the gensim package.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dlreview.messages import check_known

JUDGEMENTS = {"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt"}
ANALOGIES = "questions-words.txt"
ENOUGH = 30  # items without which a score says nothing


@dataclass(frozen=True)
class Score:
    """A score between -1 and 1, and the share of the test's items whose words are all known."""

    value: float
    covered: float


def available() -> list[str]:
    """List the installed test sets of human judgements: none without gensim."""
    return list(JUDGEMENTS) if importlib.util.find_spec("gensim") else []


def test_file(name: str) -> list[str]:
    """Return the lines of a test set.

    Raises:
        ValueError: gensim, which has the file, is not installed.
    """
    gensim = importlib.util.find_spec("gensim")
    if gensim is None or gensim.origin is None:
        raise ValueError(f"{name} needs gensim: pip install 'dlreview[words]'")
    path = Path(gensim.origin).parent / "test" / "test_data" / name
    return path.read_text(encoding="utf-8").splitlines()


def judgements(name: str) -> list[tuple[str, str, float]]:
    """Return (word, word, mean similarity judged by people) of "wordsim353" or "simlex999".

    Raises:
        ValueError: there is no such test set.
    """
    check_known("test set", name, JUDGEMENTS)
    rows = (line.lower().split("\t") for line in test_file(JUDGEMENTS[name]) if line[:1] != "#")
    return [(row[0], row[1], float(row[2])) for row in rows]


def ranks(x: Float[Tensor, " items"]) -> Float[Tensor, " items"]:
    """Rank from 1; equal values get the mean of their ranks."""
    _, place, sizes = x.unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).to(torch.float64)
    return (last - (sizes - 1) / 2)[place]


def spearman(x: Float[Tensor, " items"], y: Float[Tensor, " items"]) -> float:
    """Return the correlation of the ranks; 0 if one of the two does not vary."""
    pair = torch.stack([ranks(x), ranks(y)])
    centred = pair - pair.mean(dim=1, keepdim=True)
    spread = centred.norm(dim=1).prod()
    return float(centred.prod(dim=0).sum() / spread) if spread > 0 else 0.0


def normalize(vectors: Float[Tensor, "words width"]) -> Float[Tensor, "words width"]:
    """Scale rows to length 1, so that their products are cosines."""
    return torch.nn.functional.normalize(vectors.detach(), dim=1)


def word_similarity(
    vectors: Float[Tensor, "words width"], words: Sequence[str], name: str = "wordsim353"
) -> Score:
    """Return Spearman's correlation between cosines and human judgements.

    Pairs with an unknown word are ignored, as in gensim. So is case: of words that differ only in
    case, the first is used.
    """
    index: dict[str, int] = {}
    for number, word in enumerate(words):
        index.setdefault(word.lower(), number)
    items = judgements(name)
    known = [(index[a], index[b], s) for a, b, s in items if a in index and b in index]
    if not known:
        return Score(0.0, 0.0)
    unit = normalize(vectors)
    first, second, human = (torch.tensor(column) for column in zip(*known, strict=True))
    cosine = (unit[first] * unit[second]).sum(dim=1)
    return Score(spearman(cosine.double(), human.double()), len(known) / len(items))


def nearest(
    vectors: Float[Tensor, "words width"], words: Sequence[str], word: str, count: int = 10
) -> list[tuple[str, float]]:
    """Return the `count` other words with the largest cosine to `word`.

    Raises:
        ValueError: `word` is not in the vocabulary.
    """
    if word not in words:
        raise ValueError(f"word {word!r} is not in the vocabulary of {len(words)} words")
    unit, own = normalize(vectors), list(words).index(word)
    cosine = unit @ unit[own]
    cosine[own] = -torch.inf
    value, number = cosine.topk(min(count, len(words) - 1))
    return [(words[n], v) for n, v in zip(number.tolist(), value.tolist(), strict=True)]


def analogies(
    vectors: Float[Tensor, "words width"], words: Sequence[str], batch_size: int = 1024
) -> dict[str, Score]:
    """Answer "a is to b as c is to ?" with the word nearest to b - a + c (3CosAdd), except a, b, c.

    Returns the share of right answers among the questions whose four words are known, for each
    section and, as "total", for all.
    """
    index = {word.lower(): number for number, word in reversed(list(enumerate(words)))}
    unit = normalize(vectors)
    sections: dict[str, list[list[str]]] = {}
    for line in test_file(ANALOGIES):
        if line.startswith(":"):
            sections[line[1:].strip()] = []
        else:
            sections[list(sections)[-1]].append(line.lower().split())
    scores, right, asked, known = {}, 0, 0, 0
    for section, questions in sections.items():
        rows = [[index[w] for w in q] for q in questions if all(w in index for w in q)]
        hits = 0
        for part in torch.tensor(rows, dtype=torch.int64).view(-1, 4).split(batch_size):
            a, b, c, answer = part.unbind(1)
            cosine = normalize(unit[b] - unit[a] + unit[c]) @ unit.T
            cosine.scatter_(1, part[:, :3], -torch.inf)
            hits += int((cosine.argmax(dim=1) == answer).sum())
        scores[section] = Score(hits / max(1, len(rows)), len(rows) / len(questions))
        right, asked, known = right + hits, asked + len(questions), known + len(rows)
    return scores | {"total": Score(right / max(1, known), known / asked)}


def measure(vectors: Float[Tensor, "words width"], words: Sequence[str]) -> dict[str, float]:
    """Return every score that says something: `<test>`, and `<test>_covered`, its share of items.

    A test of which fewer than 30 items are known says nothing; without gensim there is none.
    """
    found: dict[str, float] = {}
    scores = {name: word_similarity(vectors, words, name) for name in available()}
    items = {name: len(judgements(name)) for name in scores}
    if scores:
        scores["analogies"] = analogies(vectors, words)["total"]
        items["analogies"] = sum(not line.startswith(":") for line in test_file(ANALOGIES))
    for name, score in scores.items():
        found[f"{name}_covered"] = score.covered
        if score.covered * items[name] >= ENOUGH:
            found[name] = score.value
    return found
