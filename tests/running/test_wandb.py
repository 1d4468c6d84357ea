"""W&B stays offline in the run's folder, is one run, and holds recipe, metrics and pictures."""

from tests.running.forks import fit
from tests.running.recipes import arguments


def runs(run):
    return sorted((run / "wandb").glob("offline-run-*"))


def test_an_offline_run_holds_everything_and_survives_resume(tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    argv = [flag for flag in arguments("quickstart", run) if flag not in ("--wandb", "off")]
    assert fit([*argv, "--trainer.max_epochs", "2"], log) == 0, log.read_text()
    assert len(runs(run)) == 1
    identity = (run / "wandb" / "run-id.txt").read_text()
    assert runs(run)[0].name.endswith(identity)
    assert list(runs(run)[0].glob("files/media/images/samples_*.png"))
    record = next(runs(run)[0].glob("*.wandb")).read_bytes()
    for held in (b"dlreview.learners.ddpm.DDPM", b"train/loss", b"val/class_consistency"):
        assert held in record
    assert "wandb sync" in log.read_text()
    assert not (run.parent / "wandb").exists()

    assert fit([*argv, "--trainer.max_epochs", "4", "--resume"], log) == 0, log.read_text()
    assert (run / "wandb" / "run-id.txt").read_text() == identity
    assert all(folder.name.endswith(identity) for folder in runs(run))


def test_off_is_off(tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    assert fit(arguments("quickstart", run, "--trainer.max_epochs", "1"), log) == 0
    assert not (run / "wandb").exists()
