"""What a diffusion network knows besides x_t: the time, or noise level, and a label (row 91)."""

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from dlreview.nn.positions import timestep_embedding


def sinusoidal_time(
    t: Num[Tensor, " batch"], width: int, cosine_first: bool = True, shift: int | float = 0
) -> Float[Tensor, "batch {width}"]:
    """Code t by waves (row 21, as in DDPM), in float32 whatever the network's precision.

    Half of the `width` are cosines, which come first if `cosine_first`. Periods grow from 2 pi to
    10,000 times that: to just that with `shift` 1, not quite with 0.
    """
    return timestep_embedding(t, width, flip_sin_to_cos=cosine_first, downscale_freq_shift=shift)


class SinusoidalTime(nn.Module):
    """Be `sinusoidal_time` where a module is wanted.

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

    t > 0 is a noise level. The frequencies N(0, scale^2) are drawn once and not learned; each has a
    sine and a cosine, so that `width` is even.

    Raises:
        ValueError: `width` is not positive and even.
    """

    def __init__(self, width: int, scale: float = 16.0) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width must be positive and even, not {width}")
        self.width, self.scale = width, scale
        self.frequencies = nn.Parameter(torch.randn(width // 2) * scale, requires_grad=False)

    def forward(self, t: Num[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Code noise levels t > 0."""
        angle = torch.log(t)[:, None] * self.frequencies * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class LearnedTime(nn.Module):
    """Look t = 0 ... steps - 1 up in a learned table.

    Raises:
        ValueError: `width` or `steps` is not positive.
    """

    def __init__(self, width: int, steps: int = 1000) -> None:
        super().__init__()
        if width < 1 or steps < 1:
            raise ValueError(f"width and steps must be positive, not {width} and {steps}")
        self.width, self.steps = width, steps
        self.table = nn.Embedding(steps, width)

    def forward(self, t: Num[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Look up the rows of t."""
        return self.table(t)


class TimeEmbedding(nn.Module):
    """Turn features of the time into the embedding of `width`; add what embeds a label, if any.

    A label is the "index" of one of `num_classes` rows, features of another "time", or a "vector"
    of `width` itself.

    Raises:
        ValueError: `width` or `num_classes` is not positive, `label_kind` is unknown, or classes
            are counted where labels are no indices.
    """

    def __init__(
        self,
        time_features: int,
        width: int,
        num_classes: int | None = None,
        label_kind: str = "index",
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"time_width must be positive, not {width}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be positive, not {num_classes}")
        if label_kind not in ("index", "time", "vector"):
            raise ValueError(f"label_kind must be 'index', 'time' or 'vector', not {label_kind!r}")
        if label_kind != "index" and num_classes is not None:
            raise ValueError(f"num_classes {num_classes} needs label_kind 'index'")
        self.time = two_layers(time_features, width)
        self.label: nn.Module | None = None
        if num_classes is not None:
            self.label = nn.Embedding(num_classes, width)
        elif label_kind != "index":
            self.label = two_layers(time_features, width) if label_kind == "time" else nn.Identity()

    def forward(
        self,
        time: Float[Tensor, "#batch features"],
        label: Num[Tensor, "#batch *features"] | None = None,
    ) -> Float[Tensor, "#batch width"]:
        """Embed; one time or label may stand for the whole batch.

        Raises:
            ValueError: There is a label and the network takes none, or the other way round.
        """
        if (label is None) != (self.label is None):
            raise ValueError("label is missing" if label is None else "this net takes no label")
        embedding = self.time(time)
        return embedding if self.label is None else embedding + self.label(label)


def two_layers(width_in: int, width: int) -> nn.Sequential:
    """Make the perceptron that DDPM puts after the sinusoids."""
    return nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width))
