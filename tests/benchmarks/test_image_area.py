"""Swin's cost is linear in the area of the image, ViT's is not; counted, not timed."""

import json
from itertools import pairwise

import pytest
import torch
from PIL import Image

from dlreview.nn.windows import attention_cost, window_attention_cost

WIDTH, DEPTH, PATCH, WINDOW = 12, 2, 2, 4
SIDES = [16, 32, 64]


@pytest.fixture(scope="module")
def costs(script):
    nets = script.networks(WIDTH, DEPTH, 3, PATCH, WINDOW)
    return script.measure(nets, SIDES, 1, lambda: torch.rand(()).item() + 1.0)


def test_operations_are_those_of_the_papers_equations(costs):
    for i, side in enumerate(SIDES):
        tokens = (side // PATCH) ** 2
        embedding, networks = tokens * 3 * PATCH**2 * WIDTH, DEPTH * 8 * tokens * WIDTH**2
        for name, attention in (
            ("ViT", attention_cost(tokens, WIDTH)),
            ("Swin", window_attention_cost(tokens, WIDTH, WINDOW**2)),
        ):
            # A multiplication and an addition are two operations.
            expected = 2 * (embedding + networks + DEPTH * attention)
            assert costs[name]["operations"][i] == expected, (name, side)


def test_exponents(script, costs):
    swin, vit = (costs[name]["operations"] for name in ("Swin", "ViT"))
    assert script.exponent(SIDES, swin) == pytest.approx(1, abs=1e-12)
    assert [y / x for x, y in pairwise(swin)] == [4, 4]
    assert 1.5 < script.exponent(SIDES, vit) < script.exponent(SIDES[-2:], vit[-2:]) < 2
    assert script.exponent([2, 4], [3.0, 48.0]) == pytest.approx(2)


def test_a_table_a_picture_and_a_file(script, tmp_path, capsys):
    file, picture = tmp_path / "out.json", tmp_path / "out.png"
    sizes = ["--width", "12", "--depth", "1", "--patch", "2", "--window", "4", "--repeats", "1"]
    argv = ["--sides", "16,32", *sizes, "--json", str(file), "--picture", str(picture)]
    assert script.main(argv) == 0
    written = json.loads(file.read_text())
    assert written["exponents"]["Swin, operations"]["all"] == pytest.approx(1)
    assert all(s > 0 for net in ("Swin", "ViT") for s in written["costs"][net]["seconds"])
    with Image.open(picture) as image:
        assert image.size == (700, 400)
    assert "ViT, seconds" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        script.main(["--sides", "32,16"])
