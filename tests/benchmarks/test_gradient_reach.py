"""Gradient against distance for trained and untrained networks, as numbers and as a picture."""

import json

import yaml
from PIL import Image

from dlreview import saved
from dlreview.nn.lstm import LSTM
from dlreview.nn.recurrent_language_model import RecurrentLanguageModel
from dlreview.nn.rnn import RNN

WORDS = 50


def run(folder, core):
    """Write the files of a run that the script reads."""
    folder.mkdir()
    saved.save({"net": RecurrentLanguageModel(WORDS, core)}, folder / "model", "card")
    data = {"path": "python-reference", "vocabulary_size": WORDS}
    data = {"class_path": "dlreview.data.stream.Stream", "init_args": data}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return str(folder)


def test_two_runs_give_four_curves(script, tmp_path, capsys):
    runs = [run(tmp_path / "rnn", RNN(6, 9)), run(tmp_path / "lstm", LSTM(6, 8))]
    file, picture = tmp_path / "out.json", tmp_path / "out.png"
    argv = ["--length", "12", "--windows", "9", "--json", str(file), "--picture", str(picture)]
    assert script.main([*runs, *argv]) == 0
    written = json.loads(file.read_text())
    names = [f"{net}, {state}" for net in ("RNN", "LSTM") for state in ("untrained", "trained")]
    assert list(written["norms"]) == names
    for name, norms in written["norms"].items():
        assert len(norms) == 12 and norms[0] > norms[-1] > 0, name
        assert 1 <= written["reach"][name] <= 12
    with Image.open(picture) as image:
        assert image.size == (700, 400)
    assert "LSTM, trained" in capsys.readouterr().out
