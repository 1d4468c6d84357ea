"""The embedded translation: numbers below one million, from digits to English words."""

from __future__ import annotations

import random

from dlreview.messages import check_known

EMBEDDED_NUMBERS = "numbers"
COLUMNS = ("digits", "words")
SPLITS = ("train", "test")
LONGEST = 6  # digits
COUNT, TEST_COUNT = 20_000, 1_000
SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
         "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
         "nineteen")  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """Write a number below one million in English: 1204 is "one thousand two hundred four"."""
    if number < len(SMALL):
        return SMALL[number]
    if number < 100:
        first, rest = TENS[number // 10 - 2], number % 10
    elif number < 1000:
        first, rest = f"{SMALL[number // 100]} hundred", number % 100
    else:
        first, rest = f"{in_words(number // 1000)} thousand", number % 1000
    return f"{first} {in_words(rest)}" if rest else first


def numbers(split: str) -> list[tuple[str, str]]:
    """Return (digits, words) of 20,000 numbers for training or 1,000 others for testing.

    All numbers below 100 are for training. The others have at most three, four, five or six digits,
    with equal chances as long as there are such numbers. Half of those from 1,000 on have a comma.

    Raises:
        ValueError: `split` is neither "train" nor "test".
    """
    check_known(f"split of {EMBEDDED_NUMBERS!r}", split, SPLITS)
    draw = random.Random(0)
    chosen = dict.fromkeys(range(100))
    while len(chosen) < COUNT + TEST_COUNT:
        chosen[draw.randrange(10 ** draw.randint(3, LONGEST))] = None
    rest = list(chosen)[100:]
    draw.shuffle(rest)
    train, test = [*range(100), *rest[TEST_COUNT:]], rest[:TEST_COUNT]
    pairs = [(f"{n:,}" if draw.random() < 0.5 else str(n), in_words(n)) for n in train + test]
    return pairs[: len(train)] if split == "train" else pairs[len(train) :]
