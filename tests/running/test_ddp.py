"""Two processes are one process with the same global batch, through `fit` itself, over gloo."""

import csv
import os
import socket
from itertools import pairwise

import pytest
import torch

from dlreview.randomness import RowRandom
from tests.running.forks import SMALL, arguments, checkpoint, finish, fit, start

# What is drawn for a row does not depend on the processes; these parts are not drawn for rows:
# dropout inside a network, and mixing, whose partners are the other rows of the same process.
ROWWISE = {
    "quickstart": ["--model.net.dropout", "0.0"],
    "classifier_vit_digits": [
        "--model.mixup",
        "0.0",
        "--model.cutmix",
        "0.0",
        "--data.augment",
        "[]",
    ],
    "word2vec_skipgram_python": ["--model.update", "autograd"],
    "language_model_lstm_python": ["--model.net.dropout", "0.0"],
    "tagger_bilstm_python": ["--model.net.dropout", "0.0"],
}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def as_rank(rank, port):
    """Return a hook that makes a process what torchrun would make it."""

    def hook():
        os.environ |= {
            "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
        }
        from lightning.fabric.utilities.rank_zero import rank_zero_only

        rank_zero_only.rank = rank  # Lightning reads the variables when it is imported

    return hook


def two(argv, log):
    """Run `fit` in two processes; return their exit statuses."""
    port = free_port()
    more = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    return [finish(p) for p in [start([*argv, *more], log, as_rank(r, port)) for r in (0, 1)]]


def half(name):
    """Return the flag that halves a small run's batch."""
    import yaml

    from tests.running.forks import ROOT

    recipe = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())
    own = dict(pairwise(SMALL[name])).get("--data.batch_size")
    return ["--data.batch_size", str(int(own or recipe["data"]["init_args"]["batch_size"]) // 2)]


@pytest.mark.parametrize("name", SMALL)
def test_two_processes_equal_one(name, tmp_path):
    one, both = tmp_path / "one", tmp_path / "both"
    assert fit(arguments(name, one, *ROWWISE[name]), tmp_path / "log") == 0
    argv = arguments(name, both, *ROWWISE[name], *half(name), "--checkpoint_every", "5")
    assert two(argv, tmp_path / "log2") == [0, 0], (tmp_path / "log2").read_text()

    a, b = checkpoint(one), checkpoint(both)
    key = "current_model_state" if "current_model_state" in a else "state_dict"
    for name_, value in a[key].items():
        torch.testing.assert_close(b[key][name_], value, rtol=1e-4, atol=1e-6)
    for line, other in zip(
        *(csv.DictReader((r / "metrics.csv").read_text().splitlines()) for r in (one, both)),
        strict=True,
    ):
        for column, text in line.items():
            assert bool(text) == bool(other[column])
            if text:
                assert float(other[column]) == pytest.approx(float(text), rel=1e-4), column


def test_one_of_two_processes_may_get_the_signal(tmp_path):
    import signal

    from tests.running.forks import reached

    run, log = tmp_path / "run", tmp_path / "log"
    argv = arguments("quickstart", run, *half("quickstart"), "--trainer.max_epochs", "40")
    argv += ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    port = free_port()
    first, second = (start(argv, log, as_rank(r, port)) for r in (0, 1))
    reached(run, 5, first)
    os.kill(second, signal.SIGINT)
    assert [finish(first), finish(second)] == [130, 130], log.read_text()
    assert checkpoint(run)["global_step"] > 5


def test_a_row_meets_the_same_noise_whatever_the_number_of_processes():
    device = torch.device("cpu")
    whole = RowRandom(8, device, (1, 2))
    parts = [RowRandom(4, device, (1, 2), rank=r, processes=2) for r in (0, 1)]
    noise, t = whole.normal(3, 2), whole.integers(1000)
    shares = [(p.normal(3, 2), p.integers(1000)) for p in parts]
    assert torch.equal(torch.cat([s[0] for s in shares]), noise)
    assert torch.equal(torch.cat([s[1] for s in shares]), t)
    assert not torch.equal(shares[0][0], shares[1][0]), "ranks draw different noise"
    assert not torch.equal(RowRandom(8, device, (1, 3)).normal(3, 2), noise)
    assert parts[0].own_seed != parts[1].own_seed


def test_a_short_share_takes_the_first_of_its_rows():
    device = torch.device("cpu")
    full = RowRandom(4, device, (7,), rank=1, processes=2).normal(5)
    short = RowRandom(3, device, (7,), rank=1, processes=2, share=4).normal(5)
    assert torch.equal(short, full[:3])
