"""The benchmark takes turns, does the same work on both sides and writes what it measured."""

import json
import time

import pytest
import torch


@pytest.fixture
def speed(script):
    """Return the module `benchmarks/speed.py`."""
    return script


def test_they_take_turns_and_both_begin_equally_often(speed):
    calls = []
    works = [lambda name=name: (calls.append(name), time.sleep(0.03)) for name in "ab"]
    ours, theirs = speed.in_turn(*works, repeats=4)
    assert len(ours) == len(theirs) == 4
    turns = "".join(calls[6 + 2 :])  # after the warm-up and the first timing
    assert turns.count("a") == turns.count("b")
    assert min(ours + theirs) >= 0.03


def test_quartiles(speed):
    assert speed.quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert speed.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_operations_count_products_and_attention(speed):
    a, q = torch.randn(3, 4), torch.randn(1, 2, 5, 6)
    assert speed.operations(lambda: a @ a.T) == 2 * 3 * 4 * 3
    attend = torch.nn.functional.scaled_dot_product_attention
    assert speed.operations(lambda: attend(q, q, q)) == 2 * (2 * 2 * 5 * 5 * 6)


def test_a_table_and_a_file(speed, tmp_path, monkeypatch, capsys):
    from pair import Pair, Row
    from timm.models.vision_transformer import VisionTransformer

    def build():
        sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
        return Pair(VisionTransformer(num_classes=3, **sizes), (torch.randn(2, 3, 8, 8),))

    monkeypatch.setattr(speed, "all_rows", lambda: [Row("tiny", cpu=build), Row("no", cuda=build)])
    monkeypatch.setattr(speed, "matmul_peak", lambda *_: 1e11)
    monkeypatch.setattr(speed, "LEAST", 0.001)
    file = tmp_path / "out.json"
    arguments = ["--modes", "eager", "--device", "cpu", "--repeats", "3", "--json", str(file)]
    assert speed.main(arguments) == 0
    written = json.loads(file.read_text())
    assert [(r["row"], r["work"]) for r in written["rows"]] == [
        ("tiny", "forward"),
        ("tiny", "train step"),
    ]
    for row in written["rows"]:
        assert row["ratio"] > 0
        assert row["flops"] > 0
    assert {"date", "commit", "device", "versions", "matmul_flops"} <= written.keys()
    assert "tiny" in capsys.readouterr().out
    assert speed.main([*arguments, "--only", "nothing of this name"]) == 2


def test_different_functions_are_not_compared(speed):
    from pair import Pair
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
    pair = Pair(VisionTransformer(num_classes=3, **sizes), (torch.randn(2, 3, 8, 8),))
    with torch.no_grad():
        pair.ours.head.bias += 1
    with pytest.raises(AssertionError):
        pair.check()


def test_every_row_is_found_and_named_once(speed):
    names = [row.name for row in speed.all_rows()]
    assert len(names) == len(set(names)) >= 5
    assert all(row.cpu or row.cuda for row in speed.all_rows())
