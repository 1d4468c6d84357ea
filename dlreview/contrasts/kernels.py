"""Image kernels on a picture, and which filter made which output (rows 47 and 48)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dlreview.data.pictures import read_picture
from dlreview.messages import UserError, nearest
from dlreview.metrics.kernel_match import as_shown, differences, match_kernel
from dlreview.nn.image_kernels import EXAM, filter_image, image_kernels
from dlreview.plots.kernels import kernels as sheet
from dlreview.running.command import Flag

FLAGS = {"--kernels": Flag(str)}
WORDS = (0, 1_000)
HELP = """
  kernels [PICTURE [OUTPUT ...]]: sharpen, edge, blur and Sobel kernels on a picture (rows 47, 48)
    PICTURE          to be filtered, in grey (default: a photograph that scikit-learn has)
    OUTPUT ...       filtered pictures of the same size; it is told which kernel made each
    --kernels LIST   kernels that may have made them (default: sharpen,edge,left sobel, the exam's)
  Without outputs it answers the exam's question: which of its four pictures is from no filter."""
ANSWERS = ("sharpen", "edge", "left sobel", "bottom sobel")  # the exam's four pictures


def read_grey(file: str | Path) -> Float[Tensor, "rows columns"]:
    """Read a picture in grey, pixels in 0..1.

    Raises:
        UserError: the file is no picture.
    """
    try:
        return torch.from_numpy(read_picture(file, channels=1)[0].copy()).float() / 255
    except ValueError as error:
        raise UserError(str(file), str(error)) from None


def photograph() -> Path:
    """Return the file of a photograph inside scikit-learn."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / "flower.jpg"


def chosen(text: str | None) -> dict[str, Float[Tensor, "3 3"]]:
    """Return the kernels that a user lists.

    Raises:
        UserError: one is unknown.
    """
    known = image_kernels()
    wanted = list(EXAM) if text is None else [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in known:
            raise UserError("--kernels", f"{name!r} is unknown", nearest(name, known))
    return {name: known[name] for name in wanted}


def judge(
    name: str,
    image: Float[Tensor, "rows columns"],
    output: Float[Tensor, "_ _"],
    given: dict[str, Float[Tensor, "3 3"]],
) -> str:
    """Say which of the given kernels made an output.

    Raises:
        UserError: it has another size, or could be of several kernels.
    """
    try:
        found = match_kernel(image, output, given)
    except ValueError as error:
        raise UserError(name, str(error)) from None
    errors = differences(image, output, given)
    closest = min(errors, key=lambda kernel: errors[kernel])
    return f"{found or f'none of these (nearest: {closest})'}, difference {errors[closest]:.4f}"


def exam(
    image: Float[Tensor, "rows columns"],
    results: dict[str, Float[Tensor, "rows columns"]],
    given: dict[str, Float[Tensor, "3 3"]],
) -> dict[str, str]:
    """Answer the exam's question on a picture; say so where a picture has no answer."""
    verdicts = {}
    for kernel in ANSWERS:
        name = f"picture of the {kernel}"
        try:
            verdicts[name] = judge(name, image, results[kernel], given)
        except UserError as error:
            verdicts[name] = error.problem
    return verdicts


def contrast(words: list[str], options: dict[str, Any]) -> None:
    """Say which kernel made each output, and draw the results of every kernel.

    Raises:
        UserError: a file is no picture, has another size, or could be of several kernels.
    """
    given = chosen(options["kernels"])
    image = read_grey(words[0] if words else photograph())
    if image.shape[0] < 3 or image.shape[1] < 3:
        size = " × ".join(map(str, image.shape))
        raise UserError(words[0], f"must have at least 3 × 3 pixels, got {size}")
    results = {k: as_shown(filter_image(image, kernel)) for k, kernel in image_kernels().items()}
    verdicts = {file: judge(file, image, read_grey(file), given) for file in words[1:]}
    verdicts = verdicts or exam(image, results, given)
    longest = max(map(len, verdicts))
    print(f"filters: {', '.join(given)}")
    for name, verdict in verdicts.items():
        print(f"{name:{longest}}  {verdict}")
    options["out"].mkdir(parents=True, exist_ok=True)
    final = options["out"] / "kernels.png"
    Image.fromarray(sheet(image, results).contiguous().numpy()).save(final)
    print(f"picture: {final}")
