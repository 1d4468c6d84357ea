"""Both sides take the same step: the same loss, and memory is measured."""

import json
from pathlib import Path

import pytest

SIZES = {"batch": 2, "length": 9, "width": 12, "depth": 1, "heads": 3, "words": 40}


def test_both_sides_compute_the_same_loss(script, capsys):
    argv = [text for name, size in SIZES.items() for text in (f"--{name}", str(size))]
    losses = {}
    for side in script.SIDES:
        assert script.main([*argv, "--device", "cpu", "--side", side]) == 0
        measured = json.loads(capsys.readouterr().out.splitlines()[-1])
        losses[measured["side"]] = measured["loss"]
        if Path("/proc/self/clear_refs").exists():
            assert measured["peak_bytes"] >= 0
    assert losses["ours"] == pytest.approx(losses["transformers"], rel=1e-5)
