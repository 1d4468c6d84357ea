"""Batches by their number of tokens: the same for 1, 2, 4 or 8 processes, as many each epoch."""

from types import SimpleNamespace

import pytest
import torch

from dlreview.data.corpus import Ragged
from dlreview.data.lengths import LengthOrder, Sequences, pad, round_up, whole_rows
from dlreview.learners.learner import Learner

LENGTHS = torch.randint(3, 90, (203,), generator=torch.Generator().manual_seed(0))
TOKENS = 360


def steps(processes, lengths=LENGTHS, tokens=TOKENS, **options):
    """Return for each step the rows of each process."""
    orders = [
        list(LengthOrder(lengths, tokens // processes, rank=r, processes=processes, **options))
        for r in range(processes)
    ]
    return list(zip(*orders, strict=True))


@pytest.mark.parametrize("options", [{}, {"epoch": 3}, {"shuffle": False, "drop_last": False}])
def test_step_k_sees_the_same_rows_for_any_number_of_processes(options):
    one = [step[0] for step in steps(1, **options)]
    assert len(one) > 20
    for processes in (2, 4):
        shared = steps(processes, **options)
        assert [[row for share in step for row in share] for step in shared] == one
        assert all(share.together == rows for step, rows in zip(shared, one, strict=True)
                   for share in step)  # fmt: skip
        if not options.get("drop_last", True):
            continue
        assert all(len({len(share) for share in step}) == 1 for step in shared)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 6, 8, 12])
def test_no_share_is_too_large_none_is_empty_and_rows_are_of_similar_length(processes):
    for step in steps(processes, tokens=100 * processes):
        widths = LENGTHS[step[0].together]
        assert all(0 < len(share) * widths.max() <= 100 for share in step)
        assert len({len(share) for share in step}) == 1


def test_an_epoch_sees_each_row_at_most_once_and_others_are_left_out_in_each_epoch():
    order = LengthOrder(LENGTHS, TOKENS)
    out, epochs = [], []
    for epoch in range(60):
        order.set_epoch(epoch)
        parts = list(order)
        rows = [row for part in parts for row in part]
        assert len(parts) == len(order) and len(set(rows)) == len(rows)
        assert all(len(part) * LENGTHS[part].max() <= TOKENS for part in parts)
        out.append(set(range(203)) - set(rows))
        epochs.append(rows)
    assert {len(o) for o in out} <= set(range(8)) and len(out[0]) > 0
    assert len(set.union(*out)) > 100, "no row is always left out"
    assert epochs[0] != epochs[1]
    whole = LengthOrder(LENGTHS, TOKENS, shuffle=False, drop_last=False)
    seen = list(whole)
    assert sorted(row for part in seen for row in part) == list(range(203))
    whole.set_epoch(1)
    assert list(whole) == seen


def test_it_goes_on_where_it_was():
    whole = list(LengthOrder(LENGTHS, TOKENS, epoch=2))
    order = LengthOrder(LENGTHS, TOKENS, epoch=2, start=5)
    order.set_epoch(2)
    assert list(order) == whole[5:]
    order.set_epoch(3)
    assert list(order) == list(LengthOrder(LENGTHS, TOKENS, epoch=3))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9])
def test_few_rows(rows):
    lengths = torch.full((rows,), 4)
    (part,) = LengthOrder(lengths, 100)
    assert len(part) == {1: 1, 2: 2, 3: 2, 5: 4, 9: 8}[rows]
    whole = LengthOrder(lengths, 100, shuffle=False, drop_last=False)
    assert sum(map(len, whole)) == rows
    with pytest.raises(ValueError, match=f"{rows} rows are too few for 16 processes"):
        LengthOrder(lengths, 100, processes=16)


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="tokens_per_batch must be at least 4, got 3"):
        LengthOrder(torch.tensor([4, 2]), 3)


def test_lengths_are_rounded_up_by_a_sixteenth_at_most():
    lengths = torch.arange(1, 700)
    rounded = round_up(lengths)
    assert (rounded >= lengths).all() and (rounded <= lengths * 17 / 16).all()
    assert rounded.max() == 699 and len(rounded.unique()) < 130
    assert torch.equal(rounded[:32], lengths[:32])
    assert [whole_rows(fit, 1) for fit in (0, 1, 3, 7, 8, 15, 16)] == [0, 1, 2, 4, 8, 8, 16]
    assert [whole_rows(fit, 3) for fit in (2, 3, 7, 23, 25, 50)] == [0, 3, 6, 12, 24, 48]


def test_rows_are_padded_to_the_longest_of_all_processes():
    data = Sequences({"ids": [[2, 7, 3], [2, 3], [2, 5, 6, 8, 3], [2, 9, 3]]})
    first, second = (
        data[next(iter(LengthOrder(data.lengths, 10, rank=rank, processes=2)))] for rank in (0, 1)
    )
    both = torch.cat([first["ids"], second["ids"]])
    assert first["ids"].shape == second["ids"].shape == (2, 5) and first["share"] == 2
    assert torch.equal(both != 0, torch.cat([first["mask"], second["mask"]]))
    assert sorted(both.sum(1).tolist()) == [5, 12, 14, 24]
    assert both.dtype == torch.int64
    assert [x.shape for x in pad(data.columns["ids"], [])] == [(0, 0), (0, 0)]
    assert data.padding(LengthOrder(data.lengths, 20)) == pytest.approx(1 - 13 / 20)
    assert pad(Ragged([[4, 5], [6]]), [1])[0].tolist() == [[6]]


def test_two_columns_count_by_the_longer():
    data = Sequences({"source": [[1, 2, 3], [4]], "target": [[5], [6, 7]]})
    assert data.lengths.tolist() == [3, 2]
    batch = data[[1, 0]]
    assert batch["source"].tolist() == [[4, 0, 0], [1, 2, 3]]
    assert batch["target_mask"].tolist() == [[True, True], [True, False]]
    assert batch["share"] == 2


def test_random_numbers_of_a_row_are_the_same_for_any_number_of_processes():
    class Reader(Learner):
        reads = ("ids",)

    data = Sequences({"ids": [[2] * n for n in (3, 3, 3, 3, 3)]})
    drawn = []
    for processes in (1, 2):
        for rank in range(processes):
            order = LengthOrder(data.lengths, 15, rank=rank, processes=processes,
                                shuffle=False, drop_last=False)  # fmt: skip
            learner = Reader()
            learner._trainer = SimpleNamespace(global_rank=rank, world_size=processes)
            batches = [data[part] for part in order]
            drawn.append([learner.random(b, 0, i).uniform(3) for i, b in enumerate(batches)])
    one, first, second = drawn
    for whole, a, b in zip(one, first, second, strict=True):
        assert torch.equal(whole, torch.cat([a, b]))
