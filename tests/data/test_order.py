"""The order of rows is a pure function of seed and epoch, whatever the number of processes."""

import pytest

from dlreview.data.order import BatchOrder


def batches(processes, batch_size, rows=53, **options):
    """Return for each step the rows of all processes together."""
    orders = [
        list(BatchOrder(rows, batch_size, rank=r, processes=processes, **options))
        for r in range(processes)
    ]
    return [[row for part in step for row in part] for step in zip(*orders, strict=True)]


@pytest.mark.parametrize("options", [{}, {"epoch": 3}, {"shuffle": False, "drop_last": False}])
def test_step_k_sees_the_same_rows_for_any_number_of_processes(options):
    one = batches(1, 12, **options)
    assert batches(2, 6, **options) == one
    assert batches(4, 3, **options) == one


def test_an_epoch_sees_each_row_once_and_epochs_differ():
    order = BatchOrder(53, 8, drop_last=False)
    first = [row for batch in order for row in batch]
    order.set_epoch(1)
    second = [row for batch in order for row in batch]
    assert sorted(first) == sorted(second) == list(range(53))
    assert first != second


def test_it_goes_on_where_it_was():
    whole = list(BatchOrder(53, 8, epoch=2))
    order = BatchOrder(53, 8, epoch=2, start=3)
    order.set_epoch(2)
    assert list(order) == whole[3:]
    order.set_epoch(3)
    assert list(order) == list(BatchOrder(53, 8, epoch=3))


@pytest.mark.parametrize(("rows", "batch_size", "processes"), [(5, 0, 1), (5, -1, 1), (5, 3, 2)])
def test_impossible_sizes_are_refused(rows, batch_size, processes):
    with pytest.raises(ValueError, match="batch_size"):
        BatchOrder(rows, batch_size, processes=processes)
