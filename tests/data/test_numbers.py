"""Numbers in English words; those for testing are not in the training split."""

import pytest

from dlreview.data.numbers import in_words, numbers


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (19, "nineteen"),
        (20, "twenty"),
        (42, "forty two"),
        (300, "three hundred"),
        (1204, "one thousand two hundred four"),
        (999_999, "nine hundred ninety nine thousand nine hundred ninety nine"),
        (70_001, "seventy thousand one"),
    ],
)
def test_words(number, words):
    assert in_words(number) == words


def test_splits_have_no_number_in_common():
    train, test = numbers("train"), numbers("test")
    seen, unseen = ({int(digits.replace(",", "")) for digits, _ in part} for part in (train, test))
    assert (len(train), len(test)) == (len(seen), len(unseen)) == (20_000, 1_000)
    assert not seen & unseen and set(range(100)) <= seen and max(seen) < 1_000_000
    assert all(in_words(int(digits.replace(",", ""))) == words for digits, words in train + test)
    commas = sum("," in digits for digits, _ in test)
    assert 300 < commas < 600
    assert numbers("train") == train
    with pytest.raises(ValueError, match="split of 'numbers' 'dev' is unknown; valid: train, test"):
        numbers("dev")
