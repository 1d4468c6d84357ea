"""The parallel and the sequential parts are timed at each length."""

import json


def test_each_net_at_each_length(script, tmp_path, capsys):
    file = tmp_path / "out.json"
    argv = ["--lengths", "4,16", "--width", "16", "--batch", "2", "--repeats", "1"]
    assert script.main([*argv, "--device", "cpu", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["results"]
    assert [(r["net"], r["length"]) for r in rows] == [
        (net, length) for length in (4, 16) for net in ("RNN", "LSTM", "self-attention")
    ]
    assert all(r["whole_ms"] > 0 and r["parallel_ms"] > 0 for r in rows)
    assert "sequential share" in capsys.readouterr().out
