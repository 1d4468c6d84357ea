"""Which rows are for training and which for testing."""

import pytest
import torch

from dlreview.data.splits import choose_test_split, divide, divide_end


@pytest.mark.parametrize(
    ("names", "train", "test", "expected"),
    [
        (["train", "test", "validation"], "train", "test", "test"),
        (["train", "dev", "validation"], "train", "test", "validation"),
        (["train", "dev"], "train", "test", "dev"),
        (["train", "extra"], "train", "extra", "extra"),
        (["train", "test"], "train", 0.2, 0.2),
        (["train"], "train[:80%]", "train[80%:]", "train[80%:]"),
    ],
)
def test_the_test_split(names, train, test, expected, capsys):
    assert choose_test_split("set", names, train, test) == expected
    assert capsys.readouterr().out == ""


def test_a_tenth_of_the_only_split(capsys):
    assert choose_test_split("set", ["full"], "full", "test") == 0.1
    assert capsys.readouterr().out == "set has one split, 'full': 0.1 of its rows are for testing\n"


@pytest.mark.parametrize("names", [["train", "extra"], ["full"]])
def test_a_split_that_is_not_there_is_refused(names):
    with pytest.raises(ValueError, match="split of 'set' 'test' is unknown; valid: "):
        choose_test_split("set", names, "train", "test")
    with pytest.raises(ValueError, match="split of 'set' 'test' is unknown"):
        choose_test_split("set", ["validation", "extra"], "validation", "test")
    with pytest.raises(ValueError, match="split of 'set' 'dev' is unknown"):
        choose_test_split("set", names, "train", "dev")


def test_rows_are_divided_in_the_proportions_of_the_classes(monkeypatch):
    classes = torch.tensor([0] * 100 + [1] * 50 + [2] * 20 + [3])[torch.randperm(171)]
    train, test = divide(171, 0.2, classes)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(171))
    assert train.tolist() == sorted(train.tolist()) and len(test) == round(171 * 0.2)
    counts = classes[test].bincount(minlength=4)
    assert (counts - torch.tensor([20, 10, 4, 0])).abs().max() <= 1
    assert classes[train].bincount(minlength=4).min() == 1, "each class is in training"
    assert torch.equal(test, divide(171, 0.2, classes)[1])
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not torch.equal(test, divide(171, 0.2, classes)[1]), "the seed decides"


def test_few_rows():
    assert [len(part) for part in divide(2, 0.01)] == [1, 1]
    assert divide_end(10, 0.3)[1].tolist() == [7, 8, 9]
    for function in (divide, divide_end):
        with pytest.raises(ValueError, match=r"1 rows are too few to have 0\.5 of them"):
            function(1, 0.5)
    with pytest.raises(ValueError, match="3 rows are too few"):
        divide(3, 0.5, torch.arange(3))  # each class keeps its row
