"""Rows 47 and 48: the kernels, and which filter made which output."""

import pytest
import torch
from scipy.ndimage import correlate

from dlreview.metrics.kernel_match import as_shown, differences, match_kernel
from dlreview.nn.image_kernels import DIRECTIONS, EXAM, filter_image, image_kernels, sobel

KERNELS = image_kernels()
GIVEN = {name: KERNELS[name] for name in EXAM}


@pytest.fixture(scope="module")
def image():
    """A grey picture with edges in all directions."""
    generator = torch.Generator().manual_seed(0)
    squares = torch.rand(6, 7, generator=generator).repeat_interleave(5, 0).repeat_interleave(4, 1)
    return (0.9 * squares + 0.1 * torch.rand(30, 28, generator=generator)).double()


def test_the_exams_filters_are_the_printed_ones():
    printed = [
        [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
        [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
        [[1, 0, -1], [2, 0, -2], [1, 0, -1]],
    ]
    assert [kernel.tolist() for kernel in GIVEN.values()] == printed
    assert sobel("bottom").tolist() == [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]
    assert sobel("top left").tolist() == [[2, 1, 0], [1, 0, -1], [0, -1, -2]]


def test_left_sobel_is_positive_where_the_left_side_is_bright():
    """A kernel that is turned around, as in mathematics, would give -4."""
    image = torch.tensor([1.0, 1, 0, 0]).expand(5, 4)
    assert filter_image(image, sobel("left"))[2, 1] == 4


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_opposite_directions_have_opposite_signs(direction):
    opposite = DIRECTIONS[(DIRECTIONS.index(direction) + 4) % 8]
    assert torch.equal(sobel(direction), -sobel(opposite))
    assert sobel(direction).sum() == 0


@pytest.mark.parametrize("name", KERNELS)
def test_filtering_agrees_with_scipy(name, image):
    theirs = correlate(image.numpy(), KERNELS[name].double().numpy(), mode="nearest")
    torch.testing.assert_close(filter_image(image, KERNELS[name]), torch.from_numpy(theirs))


@pytest.mark.parametrize("name", KERNELS)
def test_the_matcher_names_the_filter_or_none_of_these(name, image):
    output = as_shown(filter_image(image, KERNELS[name]))
    output = (output * 255).round() / 255  # as a file has it
    assert match_kernel(image, output, GIVEN) == (name if name in GIVEN else None)
    assert match_kernel(image, output, KERNELS) == name


def test_the_border_does_not_count(image):
    output = as_shown(filter_image(image, sobel("left")))
    output[0], output[:, -1] = 0, 1
    assert match_kernel(image, output, GIVEN) == "left sobel"
    assert differences(image, output, GIVEN)["left sobel"] == 0


def test_a_flat_image_cannot_tell_filters_apart():
    flat = torch.full((5, 6), 0.5)
    with pytest.raises(ValueError, match="edge, left sobel give the same output"):
        match_kernel(flat, torch.zeros(5, 6), GIVEN)
    assert match_kernel(flat, flat, {}) is None


def test_refuses(image):
    with pytest.raises(ValueError, match="output must have the size 30 × 28, got 29 × 28"):
        match_kernel(image, image[1:], GIVEN)
    with pytest.raises(ValueError, match="rows must be at least 3, got 2"):
        match_kernel(image[:2], image[:2], GIVEN)
    with pytest.raises(ValueError, match="direction 'lef' is unknown; did you mean 'left'"):
        sobel("lef")
