"""Train word vectors with our code and with gensim in turn: speed and quality of the vectors.

    python benchmarks/words.py [--path brown] [--epochs 5] [--repeats 5] [--json FILE]

Both read the same sentences in memory with the same vocabulary, dimensions, window, negatives and
subsampling. Ours is timed as users run it, with Lightning: `sequential`, which repeats bit for bit,
on one thread, and `hogwild` on as many threads as gensim, in larger batches. gensim's `train` is
timed with a list of tokens and with its `corpus_file`. A speed is the number of raw words of the
corpus, times epochs, per second, without the time to build the vocabulary. The scores are
Spearman's correlation with human judgements (WordSim-353, SimLex-999) after the last epoch.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from speed import processor, version

from dlreview.data.corpus import Corpus
from dlreview.learners.rates import Linear
from dlreview.learners.word2vec import WordPrediction
from dlreview.metrics.word_similarity import word_similarity
from dlreview.nn.word2vec import Word2Vec

WIDTH, WINDOW, NEGATIVES, SAMPLE, MIN_COUNT = 100, 5, 5, 1e-3, 5
# First rates of ours; gensim's is its default, 0.025. Both fall linearly to the last one. In CBOW
# the gradient has a factor 1 / number of context words, which gensim omits
# (`learners/word2vec_kernel.py`): our larger rate compensates it.
RATES, LAST_RATE = {"skipgram": 0.025, "cbow": 0.15}, 1e-4
Trained = tuple[float, torch.Tensor, list[str]]  # seconds, vectors, words


def ours(data: Corpus, method: str, epochs: int, threads: int, seed: int, update: str) -> Trained:
    """Train as `dlreview.fit` does."""
    from lightning.pytorch import Trainer, seed_everything

    seed_everything(seed)
    assert data.vocabulary is not None
    net = Word2Vec(len(data.vocabulary), WIDTH)
    rate = RATES[method]
    learner = WordPrediction(
        net, method, "negative_sampling", update, WINDOW, NEGATIVES, SAMPLE, threads,
        optimizer=partial(torch.optim.SGD, lr=rate), lr_schedule=Linear(LAST_RATE / rate),
    )  # fmt: skip
    disabled = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, limit_val_batches=0, **dict.fromkeys(disabled, False)
    )
    sentences = len(data.train_set or [])
    data.batch_size = min(sentences, {"hogwild": 8192, "sequential": 1024}[update])
    data.trainer = None
    start = time.perf_counter()
    trainer.fit(learner, datamodule=data)
    return time.perf_counter() - start, net.input.weight.detach(), data.vocabulary.words


def theirs(
    sentences: list[list[str]], file: str | None, method: str, epochs: int, threads: int, seed: int
) -> Trained:
    """Train with gensim, from the list or, if given, from a `file` of the same sentences."""
    from gensim.models import Word2Vec as Gensim

    model = Gensim(
        vector_size=WIDTH, window=WINDOW, negative=NEGATIVES, sample=SAMPLE, min_count=MIN_COUNT,
        workers=threads, sg=int(method == "skipgram"), seed=seed, epochs=epochs,
    )  # fmt: skip
    model.build_vocab(sentences)
    options: dict[str, Any] = {"total_examples": model.corpus_count, "epochs": epochs}
    source: dict[str, Any] = {"corpus_iterable": sentences}
    if file is not None:
        source = {"corpus_file": file, "total_words": model.corpus_total_words}
    start = time.perf_counter()
    model.train(**source, **options)
    return time.perf_counter() - start, torch.from_numpy(model.wv.vectors), model.wv.index_to_key


def race(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train each `repeats` times in turn, with other seeds; return the speeds and scores."""
    from dlreview.data.text import Text

    data = Corpus(options.path, batch_size=1, min_count=MIN_COUNT)
    data.setup()
    text = Text(data.path)
    sentences, _ = data.read_lists(text.names, text.read)
    raw = sum(map(len, sentences)) * options.epochs
    results = []
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "corpus.txt")
        Path(file).write_text("\n".join(map(" ".join, sentences)), encoding="utf-8")
        for method in options.methods.split(","):
            run: Any = (method, options.epochs, options.threads)
            racers: dict[str, Callable[[int], Trained]] = {
                "ours, sequential": lambda seed, run=run: ours(data, *run, seed, "sequential"),
                "ours, hogwild": lambda seed, run=run: ours(data, *run, seed, "hogwild"),
                "gensim": lambda seed, run=run: theirs(sentences, None, *run, seed),
                "gensim, corpus_file": lambda seed, run=run: theirs(sentences, file, *run, seed),
            }
            ours(data, method, 1, options.threads, 0, "hogwild")  # compiles
            found: dict[str, list[tuple[float, ...]]] = {name: [] for name in racers}
            for seed in range(options.repeats):
                for name, train in racers.items():
                    seconds, vectors, words = train(seed)
                    scores = [
                        word_similarity(vectors, words, s) for s in ("wordsim353", "simlex999")
                    ]
                    found[name].append((raw / seconds, *(s.value for s in scores)))
            for name, rows in found.items():
                speeds, wordsim, simlex = zip(*rows, strict=True)
                results.append({
                    "method": method, "who": name,
                    "words_per_second": list(speeds), "wordsim353": list(wordsim),
                    "simlex999": list(simlex), "covered": [s.covered for s in scores],
                })  # fmt: skip
    return results


def table(results: list[dict[str, Any]], about: dict[str, Any]) -> Table:
    """Format the results: medians over the runs, and their spread."""
    title = f"{about['device']}, {about['threads']} threads, {about['epochs']} epochs"
    formatted = Table(title=title)
    for heading in ("method", "who"):
        formatted.add_column(heading)
    for heading in ("words/s", "ours / theirs", "WordSim-353", "SimLex-999"):
        formatted.add_column(heading, justify="right")
    for r in results:
        speeds = r["words_per_second"]
        first = next(x for x in results if x["method"] == r["method"])["words_per_second"]
        ratio = statistics.median(a / b for a, b in zip(first, speeds, strict=True))
        scores = [
            f"{statistics.mean(r[s]):.3f} ± {statistics.pstdev(r[s]):.3f}"
            for s in ("wordsim353", "simlex999")
        ]
        speed = f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f}-{max(speeds):,.0f})"
        formatted.add_row(r["method"], r["who"], speed, f"{ratio:.2f}", *scores)
    return formatted


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--path", default="brown", help="data, as in `dlreview.data.corpus`")
    parser.add_argument("--methods", default="skipgram,cbow")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="number of runs, each with its seed")
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args(argv)
    if not set(options.methods.split(",")) <= set(RATES):
        parser.error(f"--methods must be skipgram, cbow or both, got {options.methods}")
    warnings.filterwarnings("ignore")
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    about = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/words.py " + " ".join(sys.argv[1:]),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() or None,
        "device": processor(),
        "threads": options.threads,
        "epochs": options.epochs,
        "versions": {name: version(name) for name in ("torch", "numba", "gensim", "lightning")},
    }
    results = race(options)
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table(results, about))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(about | {"results": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
