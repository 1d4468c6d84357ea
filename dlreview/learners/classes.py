"""Do the labels of the data fit the classes of a network?"""

from __future__ import annotations

from typing import Any


def check_classes(data: Any, num_classes: int) -> None:
    """Refuse data with more classes than a network has; data that do not count them pass.

    All labels of `dlreview.data` are below the data's `num_classes`: this is checked in both splits
    when the data are opened. More classes would be a read beyond a table of the network.

    Raises:
        ValueError: names both numbers.
    """
    found = getattr(data, "num_classes", None)
    if isinstance(found, int) and found > num_classes:
        raise ValueError(
            f"the data has {found} classes, the network {num_classes}\n"
            f"set num_classes of the network to {found}"
        )
