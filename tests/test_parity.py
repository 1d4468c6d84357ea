import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from dlreview import parity
from dlreview.reference import Example, all_examples, all_maps, find_map, from_reference

README = Path(__file__).parents[1] / "README.md"
SLACK = 20  # factor by which rounding errors differ between machines and versions


@pytest.fixture(scope="module")
def ledger():
    """Measure every row without its timing."""
    return list(parity.rows(timed=False))


@pytest.fixture(scope="module")
def committed():
    """Read the numbers of the README's table, by our class and theirs."""
    text = README.read_text().partition(parity.BEGIN)[2].partition(parity.END)[0]
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if line.startswith("| `"):
            reference = re.fullmatch(r"(\w+) [\d.]+ `(\w+)`", cells[1])
            key = (cells[0].strip("`"), *reference.groups())
            numbers = [float(cell) for cell in cells[3:6]]
            found[key] = (int(cells[2].replace(",", "")), *numbers, float(cells[6]))
    return found


def test_every_map_has_an_example():
    """The list comes from the maps, so that no row can be missing."""
    wanted = {(m.ours.rpartition(".")[2], m.theirs.rpartition(".")[2]) for m in all_maps()}
    have = set()
    for _, example in all_examples():
        theirs = example.theirs()
        have.add((type(find_map(theirs).build_ours(theirs)).__name__, type(theirs).__name__))
    assert wanted == have


def test_every_row_holds(ledger):
    for row in ledger:
        assert row.holds, row


def test_the_readme_has_every_row_and_none_is_worse(ledger, committed):
    live = {(row.ours, row.library, row.reference): row for row in ledger}
    assert live.keys() == committed.keys(), "python -m dlreview.parity --write README.md"
    for key, (parameters, outputs, gradients, steps_20, _) in committed.items():
        row = live[key]
        assert row.parameters == parameters
        for name, stated in {
            "outputs": outputs,
            "gradients": gradients,
            "steps_20": steps_20,
        }.items():
            assert getattr(row, name) <= SLACK * max(stated, 1e-15), (key, name)


def test_a_deliberate_mistake_does_not_hold():
    good = next(e for stem, e in all_examples() if stem == "rnn")

    def mistaken(net, x):
        output, states = net(x)
        return output * (1 + 1e-9), states

    bad = Example(good.theirs, good.inputs, call_theirs=mistaken)
    assert parity.measure("rnn", good, timed=False).holds
    assert not parity.measure("rnn", bad, timed=False).holds


def test_gradients_are_measured_by_themselves():
    """Equal outputs do not prove equal gradients."""
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    good = Example(lambda: nn.RNN(4, 3, batch_first=True), lambda: (x,))
    assert parity.measure("rnn", good, timed=False).gradients < 1e-10

    def mistaken(net, x):
        output, states = net(x)
        nothing = net.weight_hh_l0 - net.weight_hh_l0.detach()
        return output + nothing.sum(), states

    row = parity.measure("rnn", Example(good.theirs, good.inputs, call_theirs=mistaken), False)
    assert row.outputs < 1e-10 < row.gradients


def test_the_verb(tmp_path, capsys):
    (tmp_path / "page.md").write_text(f"before\n{parity.BEGIN}\nold\n{parity.END}\nafter\n")
    flags = ["--json", str(tmp_path / "rows.json"), "--write", str(tmp_path / "page.md")]
    assert parity.main(["--only", "rnn", *flags]) == 0
    out = capsys.readouterr().out
    assert "`nn.rnn.RNN` | torch " in out
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["reference"] == "RNN" and row["outputs"] < 1e-10 and row["speed"] > 0
    assert row["parameters"] == sum(p.numel() for p in _rnn().parameters())
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before\n") and page.endswith("\nafter\n") and "old" not in page
    assert parity.main(["--only", "rmn"]) == 2
    assert "did you mean rnn?" in capsys.readouterr().err
    (tmp_path / "empty.md").touch()
    assert parity.main(["--only", "rnn", "--write", str(tmp_path / "empty.md")]) == 2


def _rnn():
    (example,) = [e for stem, e in all_examples() if stem == "rnn"]
    return from_reference(example.theirs())
