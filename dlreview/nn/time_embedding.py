"""Conditions of a diffusion network besides x_t: the time (or noise level) and a label (row 91).

A condition becomes one vector per image, the embedding, which every block of the network reads.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from dlreview.messages import check_at_least
from dlreview.nn.inputs import check_size, look_up
from dlreview.nn.positions import timestep_embedding


def sinusoidal_time(
    t: Num[Tensor, " batch"], width: int, cosine_first: bool = True, shift: int | float = 0
) -> Float[Tensor, "batch {width}"]:
    """Code t by sines and cosines (row 21, as in DDPM), in float32 for any network precision.

    Half of the features are cosines, which come first if `cosine_first`. The periods grow from 2 pi
    to 20,000 pi; with `shift` 0 the longest is a little shorter than that, with `shift` 1 equal.
    """
    return timestep_embedding(t, width, flip_sin_to_cos=cosine_first, downscale_freq_shift=shift)


class SinusoidalTime(nn.Module):
    """The function `sinusoidal_time` as a module.

    Raises:
        ValueError: `width` is too small for `shift`.
    """

    def __init__(self, width: int, cosine_first: bool = True, shift: int | float = 0) -> None:
        super().__init__()
        if width < 2 or width // 2 == shift:
            raise ValueError(f"width {width} is too small for shift {shift}")
        self.width, self.cosine_first, self.shift = width, cosine_first, shift

    def forward(self, t: Num[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Code t = 0, 1, 2, ..., fractions allowed."""
        return sinusoidal_time(t, self.width, self.cosine_first, self.shift)


class FourierTime(nn.Module):
    """Code log t by waves of random frequencies (Song et al. 2021, arXiv:2011.13456).

    t > 0 is a noise level. The frequencies are drawn once from N(0, scale^2) and not learned. Each
    gives a sine and a cosine.

    Raises:
        ValueError: `width` is below 2 or odd.
    """

    def __init__(self, width: int, scale: float = 16.0) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width must be even and at least 2, got {width}")
        self.width, self.scale = width, scale
        self.frequencies = nn.Parameter(torch.randn(width // 2) * scale, requires_grad=False)

    def forward(self, t: Num[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Code noise levels t > 0."""
        angle = torch.log(t)[:, None] * self.frequencies * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class LearnedTime(nn.Module):
    """Look up t = 0 ... steps - 1 in a learned table.

    Raises:
        ValueError: `width` or `steps` is below 1.
    """

    def __init__(self, width: int, steps: int = 1000) -> None:
        super().__init__()
        check_at_least(1, width=width, steps=steps)
        self.width, self.steps = width, steps
        self.table = nn.Embedding(steps, width)

    def forward(self, t: Num[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Look up the rows of t."""
        return look_up("t", self.table, t, self.steps)


def two_layers(width_in: int, width: int) -> nn.Sequential:
    """Make the perceptron that DDPM applies to the features of the time."""
    return nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width))


class Label(nn.Module):
    """A kind of label. The network makes its embedding, since only the network knows the widths."""

    def __init__(self) -> None:
        super().__init__()

    def make(self, time_width: int, width: int) -> nn.Module:
        """Make the embedding of `width`; features of a time have `time_width`."""
        raise NotImplementedError

    def read(
        self, label: Num[Tensor, "#batch *any"], time: Callable[[Tensor], Tensor]
    ) -> Num[Tensor, "#batch *features"]:
        """Turn a label into the input of its embedding; `time` codes times."""
        return label


class ClassLabel(Label):
    """A label that is one of `num_classes` classes; a table has a row for each class.

    With `null_class` the table has one more row, the last, number `num_classes`. It stands for "no
    condition" in classifier-free guidance (row 91).

    Raises:
        ValueError: `num_classes` is below 1.
    """

    def __init__(self, num_classes: int, null_class: bool = False) -> None:
        super().__init__()
        check_at_least(1, num_classes=num_classes)
        self.num_classes, self.null_class = num_classes, null_class

    @property
    def rows(self) -> int:
        """Number of rows of the table."""
        return self.num_classes + self.null_class

    def make(self, time_width: int, width: int) -> nn.Module:
        """Make the table."""
        return nn.Embedding(self.rows, width)


class TimeLabel(Label):
    """A label that is another time, coded as the time is."""

    def make(self, time_width: int, width: int) -> nn.Module:
        """Make a perceptron of its own."""
        return two_layers(time_width, width)

    def read(
        self, label: Num[Tensor, "#batch *any"], time: Callable[[Tensor], Tensor]
    ) -> Num[Tensor, "#batch *features"]:
        """Code the label."""
        return time(label)


class VectorLabel(Label):
    """A label that is a vector of the embedding's width; it is added as it is."""

    def make(self, time_width: int, width: int) -> nn.Module:
        """Make the identity."""
        return nn.Identity()


class TimeEmbedding(nn.Module):
    """Turn features of the time into the embedding of `width`; add the embedding of a label.

    Raises:
        ValueError: `width` is below 1.
    """

    def __init__(self, time_width: int, width: int, label: Label | None = None) -> None:
        super().__init__()
        check_at_least(1, width=width)
        self.time = two_layers(time_width, width)
        self.label = None if label is None else label.make(time_width, width)

    def forward(
        self,
        time: Float[Tensor, "#batch features"],
        label: Num[Tensor, "#batch *features"] | None = None,
    ) -> Float[Tensor, "#batch width"]:
        """Embed; one time or label may be given for the whole batch.

        Raises:
            ValueError: There is a label and the network takes none, or the other way round, or it
                is no class of the network, or has another width.
        """
        if (label is None) != (self.label is None):
            raise ValueError("label is missing" if label is None else "this net takes no label")
        embedding = self.time(time)
        if self.label is None or label is None:
            return embedding
        coded = look_up("label", self.label, label, getattr(self.label, "num_embeddings", 0))
        check_size("width of label", coded, -1, embedding.shape[-1])
        return embedding + coded
