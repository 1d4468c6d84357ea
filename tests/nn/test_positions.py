import math

import pytest
import torch
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from dlreview.nn.positions import (
    LearnedPositions,
    NoPositions,
    Sinusoids,
    binary_code,
    integer_code,
    resize_grid,
    sinusoids,
    timestep_embedding,
)


def test_integers_and_bits_of_row_20():
    assert integer_code(8)[:, 0].tolist() == list(range(8))
    assert binary_code(8).tolist() == [[n >> 2 & 1, n >> 1 & 1, n & 1] for n in range(8)]
    assert binary_code(2, bits=3).tolist() == [[0, 0, 0], [0, 0, 1]]
    assert binary_code(1).tolist() == [[0]]
    with pytest.raises(ValueError, match="bits must be at least 4 for length 9, got 3"):
        binary_code(9, bits=3)


@pytest.mark.parametrize("width", [1, 6, 7])
def test_sinusoids_are_the_formula_of_row_21(width):
    table = sinusoids(torch.tensor([0, 3, 1000]), width)
    for row, position in enumerate([0, 3, 1000]):
        for column in range(width):
            angle = position / 10000 ** (2 * (column // 2) / width)
            wave = math.cos(angle) if column % 2 else math.sin(angle)
            assert table[row, column].item() == pytest.approx(wave, abs=1e-12)


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids_are_those_of_marian_with_the_columns_sorted(width):
    """Theirs has all sines first, and is in float32."""
    theirs = MarianSinusoidalPositionalEmbedding(40, width)
    weight = theirs.create_weight()
    table = sinusoids(torch.arange(40), width)
    sorted_table = torch.cat([table[:, 0::2], table[:, 1::2]], dim=1)
    assert torch.equal(sorted_table.float(), weight)


def test_the_four_requirements_of_row_24():
    length, width = 2000, 64
    table = sinusoids(torch.arange(length), width)
    # Unique for every position: no two rows are near each other.
    distances = torch.cdist(table, table) + 9 * torch.eye(length)
    assert distances.min() > 0.1
    # Independent of the input: added to any tokens, the same.
    add = Sinusoids(width).double()
    for seed in (0, 1):
        x = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(seed)).double()
        torch.testing.assert_close(add(x) - x, table[:5].expand(2, -1, -1), atol=1e-14, rtol=0)
    # Independent of the length of the sequence: the first rows do not depend on it.
    assert torch.equal(sinusoids(torch.arange(10), width), table[:10])
    # Numbers not too large, in contrast to the positions themselves.
    assert table.abs().max() <= 1 < integer_code(length).max()
    assert not list(add.parameters())


@pytest.mark.parametrize("width", [4, 7, 32])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("scale", [1, 2.5])
def test_timesteps_are_those_of_diffusers_bit_for_bit(width, flip, shift, scale):
    from diffusers.models.embeddings import get_timestep_embedding

    for t in (torch.tensor([0, 1, 37, 999]), torch.tensor([0.5, 12.25]).double()):
        expected = get_timestep_embedding(t, width, flip, shift, scale, max_period=5000)
        assert torch.equal(timestep_embedding(t, width, 5000, flip, shift, scale), expected)


def test_timesteps_refuse_a_width_without_frequencies():
    for width in (1, 2, 3):
        with pytest.raises(ValueError, match=f"width {width} is too small"):
            timestep_embedding(torch.tensor([3]), width)


@pytest.mark.parametrize("new", [(3, 4), (5, 3), (2, 2), (6, 8)])
def test_a_grid_is_resized_as_timm_does(new):
    from timm.layers import resample_abs_pos_embed

    table = torch.randn(12, 5)
    expected = resample_abs_pos_embed(table[None], list(new), [3, 4], num_prefix_tokens=0)[0]
    assert torch.equal(resize_grid(table, (3, 4), new), expected)


def test_a_grid_keeps_its_rows_and_columns():
    """A plane is read off exactly (but at the border) by bicubic interpolation."""
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="ij")
    table = torch.stack([rows, columns], dim=-1).flatten(0, 1).double()
    new = resize_grid(table, (8, 6), (16, 12), in_float32=False).unflatten(0, (16, 12))
    inner = new[4:-4, 4:-4]
    torch.testing.assert_close(inner[:, 0, 0], (torch.arange(4, 12).double() + 0.5) / 2 - 0.5)
    torch.testing.assert_close(inner[0, :, 1], (torch.arange(4, 8).double() + 0.5) / 2 - 0.5)


@pytest.mark.parametrize("own", [0, 1, 3])
def test_learned_positions_serve_the_first_special_tokens(own):
    net = LearnedPositions([2, 3], 5, prefix=own)
    special, patches = torch.randn(1, 3, 5), torch.randn(4, 6, 5)
    x = net(special, patches, (2, 3))
    places = torch.cat([net.table[:own], torch.zeros(3 - own, 5), net.table[own:]])
    joined = NoPositions()(special, patches, (2, 3))
    torch.testing.assert_close(x, joined + places)
    assert net(special, torch.randn(4, 20, 5), (4, 5)).shape == (4, 23, 5)
    assert NoPositions()(special[:, :0], patches, (2, 3)) is patches


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnedPositions([2], 5), r"grid must be two positive numbers, got \[2\]"),
        (lambda: LearnedPositions([2, 0], 5), "grid must be two positive numbers"),
        (lambda: LearnedPositions([2, 3], 0), "width must be at least 1, got 0"),
        (lambda: LearnedPositions([2, 3], 5, -1), "prefix must be at least 0, got -1"),
        (lambda: Sinusoids(0), "width must be at least 1, got 0"),
        (lambda: sinusoids(torch.arange(3), 0), "width must be at least 1, got 0"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
