"""Written texts: the loss without padding, the likeliest tokens, texts of all processes."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from dlreview.data.tokenizer import BOS, EOS, MASK, PAD, SPECIALS, UNK
from dlreview.learners import written
from dlreview.learners.written import SHOWN, Written, text_losses, write_texts
from dlreview.nn.gpt import GPT

WORDS = 11


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_that_of_the_tokens_after_the_first(smoothing):
    torch.manual_seed(1)
    head, hidden = nn.Linear(6, WORDS).double(), torch.randn(3, 4, 6).double()
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 10, 3, 0, 0], [2, 5, 6, 3, 0]])
    mask = ids > 0
    read = []

    def write(earlier, score):
        read.append(earlier)
        return score(hidden, head)

    losses, weights = text_losses(write, ids, mask, smoothing)
    assert torch.equal(read[0], ids[:, :-1])
    log_p = head(hidden).log_softmax(2)
    expected = [
        -(1 - smoothing) * log_p[row, place, ids[row, place + 1]]
        - smoothing / WORDS * log_p[row, place].sum()
        for row, length in enumerate([5, 3, 4])
        for place in range(length - 1)
    ]
    kept = losses[weights > 0]
    torch.testing.assert_close(kept, torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_texts_are_the_likeliest_tokens_up_to_the_end():
    torch.manual_seed(0)
    net = GPT(WORDS, 8, 1, 2, 9, initial_std=0.5).eval()
    ids = write_texts(net, net.start(9), 4, 9)
    assert ids.shape[0] == 4 and 1 < ids.shape[1] <= 1 + 9 and (ids[:, 0] == BOS).all()
    never = [PAD, UNK, BOS, MASK]
    text = torch.tensor([[BOS]])
    for token in ids[0, 1:].tolist():
        logits = net(text)[0, -1].detach()
        logits[never] = -torch.inf
        assert token == int(logits.argmax())
        text = torch.cat([text, torch.tensor([[token]])], dim=1)
        if token == EOS:
            break
    assert set(ids[:, 1:].unique().tolist()) <= {PAD, EOS, *range(len(SPECIALS), WORDS)}


def test_the_first_rows_of_a_split_are_found_in_any_batch():
    batch = {"ids": torch.arange(6).view(3, 2), "row": torch.tensor([4, 0, 2]), "share": 3}
    kept, trainer = Written(), Trainer(logger=False, barebones=True, accelerator="cpu")
    trainer.limit_val_batches = 1.0
    assert torch.equal(kept.choose(batch, 3, trainer)["ids"], batch["ids"][1:])
    assert kept.choose(batch, 5, trainer)["ids"].shape == (3, 2)
    assert kept.choose(batch, 1, trainer)["share"] == 3
    assert kept.choose({**batch, "row": batch["row"] + 9}, 3, trainer)["ids"].shape == (0, 2)


def test_of_a_part_of_the_batches_the_first_rows_are_measured():
    batch = {"ids": torch.arange(6).view(3, 2), "row": torch.tensor([14, 10, 12])}
    kept, trainer = Written(), Trainer(logger=False, barebones=True, accelerator="cpu")
    trainer.limit_val_batches = 1  # batch, not all of them
    assert torch.equal(kept.choose(batch, 2, trainer)["ids"], batch["ids"][:2])
    kept.update([1], ["a"], ["b"], ["c"])
    assert torch.equal(kept.choose(batch, 2, trainer)["ids"], batch["ids"][:1])


def test_texts_are_kept_until_they_are_scored(tmp_path):
    kept = Written()
    kept.update([7, 9], ["2", "3"], ["d", "e\tf"], ["d", "g\nh"])
    kept.update([4], ["1"], ["a  b"], ["c"])
    assert kept.compute() == (["a  b", "d", "e\tf"], ["c", "d", "g\nh"])
    assert kept.rows == [] and kept.compute() == ([], [])
    kept.update([9, 7], ["3", "2"], ["e\tf", "d"], ["g\nh", "d"])
    kept.compute()
    kept.save(tmp_path / "texts.tsv")
    assert (tmp_path / "texts.tsv").read_text() == "read\twritten\twanted\n2\td\td\n3\te f\tg h\n"
    assert [p.name for p in tmp_path.iterdir()] == ["texts.tsv"]
    with pytest.raises(ValueError, match="zip"):
        kept.update([1], ["1"], ["a", "b"], ["c"])


def test_only_the_first_texts_are_shown(tmp_path):
    kept = Written()
    kept.update(list(range(SHOWN + 5)), *([str(n) for n in range(SHOWN + 5)] for _ in range(3)))
    kept.compute()
    kept.save(tmp_path / "texts.tsv")
    assert len((tmp_path / "texts.tsv").read_text().splitlines()) == 1 + SHOWN


def test_texts_of_all_processes_are_scored_together(monkeypatch):
    def gather(parts, own, other):
        parts[:] = [own, other]

    other = [(3, "9", "z", "z")]
    monkeypatch.setattr(written, "dist", SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_world_size=lambda: 2,
        all_gather_object=partial(gather, other=other)))  # fmt: skip
    kept = Written()
    kept.update([2, 8], ["1", "4"], ["a", "c"], ["b", "d"])
    assert kept.compute() == (["a", "z", "c"], ["b", "z", "d"])
    assert kept.examples == [("1", "a", "b"), ("9", "z", "z"), ("4", "c", "d")]
