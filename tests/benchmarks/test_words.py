"""The comparison with gensim: both train on the same words, and all results are written."""

import json

import pytest


def test_both_train_on_the_same_words(script, tmp_path, monkeypatch, capsys):
    pytest.importorskip("gensim")
    monkeypatch.setattr(script, "WIDTH", 8)
    file = tmp_path / "out.json"
    argv = ["--path", "python-reference", "--epochs", "1", "--repeats", "2", "--json", str(file)]
    assert script.main(argv) == 0
    written = json.loads(file.read_text())
    assert {"date", "commit", "device", "threads", "versions"} <= written.keys()
    rows = {(r["method"], r["who"]): r for r in written["results"]}
    assert len(rows) == 8
    for row in rows.values():
        assert len(row["words_per_second"]) == 2 and min(row["words_per_second"]) > 0
        assert row["covered"] == rows["skipgram", "gensim"]["covered"], "the same vocabulary"
    assert "ours, hogwild" in capsys.readouterr().out


def test_an_unknown_method_is_refused(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--methods", "glove"])
    assert stop.value.code == 2 and "glove" in capsys.readouterr().err
