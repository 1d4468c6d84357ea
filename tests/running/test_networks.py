"""Several networks, and modules of a user's own: trained, resumed, saved and loaded by name."""

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import dlreview
from dlreview.fit import main
from tests.running import test_resume
from tests.running.forks import checkpoint
from tests.running.recipes import SHORT, TREES, arguments

MLP = "tests.running.toys.MLP"
OURS = "dlreview.nn.feed_forward.FeedForward"


def net(width_in, width_out, kind=MLP):
    if kind == OURS:
        return {"class_path": OURS, "init_args": {"width": width_in, "hidden_width": 8}}
    return {"class_path": MLP,
            "init_args": {"width_in": width_in, "width": 8, "width_out": width_out}}  # fmt: skip


def write(path, model, **arguments):
    tree = {
        "model": {"class_path": f"tests.running.toys.{model}", "init_args": arguments},
        "data": {"class_path": "dlreview.data.images.Images", "init_args": {"path": "digits"}},
        "trainer": {"callbacks": [
            {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}]},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(tree))
    return [str(path), "--wandb", "off", "--trust", "tests", *SHORT]


@pytest.fixture(params=["GAN", "PlainGAN", "Plain"])
def toy(request, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    parts = {"generator": net(4, 64), "discriminator": net(64, 1)}
    return request.param, write(
        tmp_path / "toy.yaml", request.param, **({} if request.param == "Plain" else parts)
    )


def test_a_module_of_a_users_own_trains_resumes_and_is_saved(toy, tmp_path, monkeypatch):
    name, argv = toy
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main([*argv, "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        test_resume.stop_at(patch, 8)
        assert main([*argv, "--out", str(run)]) == 130
    assert main([*argv, "--out", str(run), "--resume"]) == 0
    test_resume.equal(whole, run)
    model = run / "model"
    averaged = checkpoint(run)["state_dict"]
    if name == "Plain":
        assert json.loads((model / "config.json").read_text())["init_args"] == {"width": 8}
        state = load_file(model / "model.safetensors")
        assert torch.equal(state["layers.1.weight"], averaged["layers.1.weight"])
        return
    assert json.loads((model / "index.json").read_text())["networks"] == [
        "generator",
        "discriminator",
    ]
    for part in ("generator", "discriminator"):
        state = load_file(model / part / "model.safetensors")
        assert torch.equal(state["layers.1.weight"], averaged[f"{part}.layers.1.weight"])
        with pytest.raises(ValueError, match=r"'tests\.running\.toys\.MLP' is not a network of"):
            dlreview.load(run, part)


@pytest.mark.parametrize("step", [7, 11])
@pytest.mark.parametrize("more", [{}, {"shuffle": False}, {"num_workers": 1}], ids=str)
def test_a_data_module_of_a_users_own_resumes(step, more, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    argv = write(tmp_path / "toy.yaml", "Plain")
    tree = yaml.safe_load((tmp_path / "toy.yaml").read_text())
    tree["data"] = {"class_path": "tests.running.toys.Digits", "init_args": more}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(tree))
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main([*argv, "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        test_resume.stop_at(patch, step)
        assert main([*argv, "--out", str(run)]) == 130
    assert main([*argv, "--out", str(run), "--resume"]) == 0
    test_resume.equal(whole, run)


def test_networks_of_ours_are_loaded_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    argv = write(tmp_path / "toy.yaml", "GAN", latent=64, generator=net(64, 64, OURS),
                 discriminator=net(64, 1))  # fmt: skip
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        test_resume.stop_at(patch, 8)
        assert main([*argv, "--out", str(run)]) == 130
    unfinished = dlreview.load(run)
    assert type(unfinished).__name__ == "FeedForward"
    assert main([*argv, "--out", str(run), "--resume"]) == 0
    main_one, named = dlreview.load(run), dlreview.load(run / "model", "generator")
    for key, value in main_one.state_dict().items():
        assert torch.equal(value, named.state_dict()[key])
        assert torch.equal(value, checkpoint(run)["state_dict"][f"generator.{key}"])
    with pytest.raises(ValueError, match="'critic' is unknown; valid: discriminator, generator"):
        dlreview.load(run, "critic")


def test_parts_of_a_plain_module_are_its_networks(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    run = tmp_path / "run"
    assert main([*write(tmp_path / "toy.yaml", "Inside"), "--out", str(run)]) == 0
    state = checkpoint(run)["state_dict"]
    encoder = dlreview.load(run, "encoder")
    assert all(torch.equal(x, state[f"encoder.{k}"]) for k, x in encoder.state_dict().items())
    head = load_file(run / "model" / "head" / "model.safetensors")
    assert torch.equal(head["weight"], state["head.weight"])


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("Complex", "network spectrum cannot be saved: weight holds torch.complex32"),
        ("Nameless", "keeps no network under the name head"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_training(model, told, tmp_path, capsys):
    argv = write(tmp_path / "toy.yaml", model)
    assert main([*argv, "--out", str(tmp_path / "run")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("frozen", [True, False])
def test_a_captioner_may_look_with_the_classifier_of_an_earlier_run(frozen, tmp_path):
    """Its head is kept, but not trained; its features are projected to the decoder's width."""
    vit, run = tmp_path / "vit", tmp_path / "run"
    assert main(arguments("classifier_vit_digits", vit, "--trainer.max_steps", "1")) == 0
    tree = copy.deepcopy(TREES["captioner_vit_digits"])
    model = tree["model"]["init_args"]
    model["freeze_encoder"] = frozen
    model["net"]["init_args"] = {
        "encoder": {"class_path": "dlreview.reference.Pretrained", "init_args": {"path": str(vit)}},
        "decoder": {
            "class_path": "dlreview.nn.gpt.GPT",
            "init_args": {"width": 12, "depth": 1, "heads": 2, "block": {
                "class_path": "dlreview.nn.decoder.DecoderBlock",
                "init_args": {"width": 12, "heads": 2}}},
        },
    }  # fmt: skip
    (tmp_path / "captioner.yaml").write_text(yaml.safe_dump(tree))
    argv = [str(tmp_path / "captioner.yaml"), "--wandb", "off", "--out", str(run), *SHORT]
    assert main([*argv, "--trainer.max_steps", "2"]) == 0
    before, after = dlreview.load(vit).state_dict(), dlreview.load(run).encoder.state_dict()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert same == (set(before) if frozen else {"head.weight", "head.bias"})
    assert dlreview.load(run).projection.out_features == 12
