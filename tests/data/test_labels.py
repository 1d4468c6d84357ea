"""Labels become class numbers 0..K-1, or are refused by row."""

import pytest

from dlreview.data.labels import Classes


def test_text_is_numbered_by_sorted_names():
    classes = Classes(["cat", "ant", "cat", "bee"], [], "c")
    assert classes.names == ["ant", "bee", "cat"] and len(classes) == 3
    assert classes.encode(["cat", "ant"], "c").tolist() == [2, 0]


def test_numbers_and_bools_stay_as_they_are():
    classes = Classes([2, 0, 1, 1], [], "c")
    assert classes.names == [] and classes.encode([1, 2], "c").tolist() == [1, 2]
    assert Classes([1.0, 0.0], [], "c").encode([1.0], "c").tolist() == [1]
    truth = Classes([True, True], [], "c")
    assert len(truth) == 2 and truth.encode([False, True], "c").tolist() == [0, 1]
    named = Classes([0, 2], ["a", "b", "c"], "c")
    assert len(named) == 3 and named.names == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, None], "c, row 1: the label is missing\nvalid: class numbers 0..K-1, or text"),
        ([0.0, float("nan")], "c, row 1: the label is missing"),
        (["a", ""], "c, row 1: the label is missing"),
        ([0, 1, -1], "c, row 2: label -1\nvalid: class numbers 0..K-1, or text"),
        ([0, 0.5], "c, row 1: label 0.5"),
        ([float("inf")], "c, row 0: label inf"),
        ([[0, 1]], r"c, row 0: label [0, 1]"),
        ([0, "a"], "c, row 1: label 'a'"),
        ([1, 3, 2], "c: labels are 1..3 (row 1 has 3)\nvalid: 0..2 without gaps, or text"),
        ([0, 7, 7], "c: labels are 2 different numbers (row 1 has 7)\nvalid: 0..1"),
    ],
)
def test_faulty_labels_are_refused(labels, told):
    with pytest.raises(ValueError) as error:
        Classes(labels, [], "c")
    assert str(error.value).startswith(told)
    assert str(error.value).count("\n") == 1


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        (["a", "b"], ["a", "z"], "t, row 1: label 'z' is no class of the training split\n"
                                 "valid: 'a', 'b'"),
        ([0, 1], [2], "t, row 0: label 2 is no class of the training split\nvalid: 0..1"),
        ([0, 1], [0, None], "t, row 1: the label is missing\nvalid: 0..1"),
    ],
)  # fmt: skip
def test_labels_outside_the_training_classes_are_refused(train, test, told):
    with pytest.raises(ValueError) as error:
        Classes(train, [], "c").encode(test, "t")
    assert str(error.value) == told
    with pytest.raises(ValueError, match="row 0: label -1 is no class"):
        Classes([], ["a"], "c").encode([-1], "t")
