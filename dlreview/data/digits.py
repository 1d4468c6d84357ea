"""The embedded images: scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dlreview.messages import check_known

EMBEDDED = "digits"
SPLITS = ("train", "test")
CLASS_NAMES = [str(digit) for digit in range(10)]


def digits(split: str) -> tuple[list[Image.Image], list[int]]:
    """Return scikit-learn's 1,797 handwritten digits, 8x8, four fifths of them for training.

    Raises:
        ValueError: `split` is neither "train" nor "test".
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    check_known(f"split of {EMBEDDED!r}", split, SPLITS)
    pixels, label = load_digits(return_X_y=True)
    image = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    parts = train_test_split(image, label, test_size=0.2, stratify=label, random_state=0)
    image, label = (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])
    return [Image.fromarray(one) for one in image], label.tolist()
