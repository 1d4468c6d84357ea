"""What leaves is loaded by the library's own call, in a process that has never heard of us."""

import json
import re
import subprocess
import sys

import pytest
import torch
import yaml

import dlreview
from dlreview import export, fit, sample, saved
from dlreview.data.images import Images
from dlreview.nn.lstm import LSTM
from dlreview.nn.norm import LayerNorm
from dlreview.nn.vit import ViT
from dlreview.nn.word2vec import Word2Vec
from dlreview.samplers import Schedule
from dlreview.usage import diffusion
from tests.parity import scramble

UNET = {
    "class_path": "dlreview.nn.diffusion_unet.DiffusionUNet",
    "init_args": {
        "image_channels": 1,
        "widths": [8, 16],
        "attention": [False, True],
        "blocks_per_level": 1,
        "groups": 4,
    },
}
VIT = {
    "class_path": "dlreview.nn.vit.ViT",
    "init_args": {
        "image_size": 8,
        "patch_size": 2,
        "width": 12,
        "depth": 2,
        "heads": 3,
        "num_classes": 10,
        "image_channels": 1,
    },
}


def trained(folder, learner, **arguments):
    """Train an epoch of two steps; return the run's folder."""
    recipe = {
        "model": {"class_path": learner, "init_args": arguments},
        "data": {
            "class_path": "dlreview.data.images.Images",
            "init_args": {"path": "digits", "batch_size": 512},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    assert fit.main([str(file), "--out", str(folder / "run"), "--wandb", "off"]) == 0
    return folder / "run"


def exported(run, folder, *flags):
    assert export.main([str(run), str(folder), *flags]) == 0
    return folder


def in_a_fresh_process(code, folder):
    """Run code where dlreview cannot be imported; it puts tensors into `out`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{BEFORE}\n{code}\n{AFTER}"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": "", "HOME": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "out.pt")


BEFORE = """
import sys, torch
sys.modules["dlreview"] = None
x = torch.load("x.pt")
"""
AFTER = """
torch.save(out, "out.pt")
"""


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    return trained(folder, "dlreview.learners.classifier.Classifier", net=VIT)


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddpm")
    arguments = {"net": UNET, "schedule": "cosine", "grid": 0, "sampler": "ddpm"}
    return trained(folder, "dlreview.learners.ddpm.DDPM", **arguments)


def assert_equal(one, two, **tolerance):
    torch.testing.assert_close(one, two, **({"atol": 1e-10, "rtol": 1e-10} | tolerance))


def test_vision_transformer(classifier, tmp_path):
    """One process for both libraries, to save their start."""
    for library in ("timm", "transformers"):
        exported(classifier, tmp_path / library, "--format", library)
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    torch.save(x, tmp_path / "x.pt")
    code = """
import timm
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
one = timm.create_model("local-dir:timm", pretrained=True).double().eval()
two = AutoModelForImageClassification.from_pretrained("transformers").double().eval()
picture = Image.new("L", (8, 8), 100)
pixels = AutoImageProcessor.from_pretrained("transformers")(picture, return_tensors="pt")
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(one))
out = [one(x).detach(), two(x).logits.detach(), pixels["pixel_values"], transform(picture)[None]]
out.append([two.config.id2label[k] for k in range(10)])
"""
    by_timm, by_transformers, *pixels, names = in_a_fresh_process(code, tmp_path)
    ours = dlreview.load(classifier).double()
    assert_equal(by_timm, ours(x).detach())
    assert_equal(by_transformers, ours(x).detach())
    for picture in pixels:  # a saved model knows its preprocessing
        assert_equal(picture, torch.full((1, 1, 8, 8), 100 / 127.5 - 1), atol=1e-6)
    assert names == [str(digit) for digit in range(10)]


def test_pipeline(unconditional, tmp_path):
    """The same images from the same noise, by both samplers."""
    exported(unconditional, tmp_path / "pipe", "--format", "diffusers")
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    torch.save(x, tmp_path / "x.pt")
    code = """
from diffusers import DDIMPipeline, DDPMPipeline, DiffusionPipeline
out = []
for cls in (DDPMPipeline, DDIMPipeline):
    pipeline = cls.from_pretrained("pipe")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    images = pipeline(4, generator, num_inference_steps=20, output_type="np").images
    out.append(torch.from_numpy(images).permute(0, 3, 1, 2))
net = pipeline.unet.double().eval()
out += [net(x, torch.tensor([0, 500, 999])).sample.detach()]
out += [type(DiffusionPipeline.from_pretrained("pipe")).__name__]
"""
    *images, prediction, kind = in_a_fresh_process(code, tmp_path)
    ours = dlreview.load(unconditional)
    assert kind == "DDPMPipeline", "the sampler of the recipe"
    for sampler, theirs in zip(("ddpm", "ddim"), images, strict=True):
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn(4, 1, 8, 8, generator=generator)
        settings = {"prediction": "eps", "clip": 1.0, "sampler": sampler, "steps": 20}
        s = Schedule.cosine(1000)
        drawn = diffusion.draw(ours, noise, None, s, settings, generator, 500)
        assert drawn.std() > 0.1
        # float32 networks and tables on their side
        assert_equal((drawn / 2 + 0.5).clamp(0, 1), theirs, atol=1e-4, rtol=0)
    assert_equal(prediction, ours.double()(x, torch.tensor([0, 500, 999])).detach())


def test_classes_become_a_pipeline_one_by_one(tmp_path):
    label = {"class_path": "dlreview.nn.time_embedding.ClassLabel"}
    label["init_args"] = {"num_classes": 3, "null_class": True}
    net = UNET | {"init_args": UNET["init_args"] | {"label": label}}
    model = scramble(saved.build(net)).float()
    usage = {
        "task": "diffusion",
        "settings": {
            "schedule": Schedule.linear(100, 1e-4, 0.02).to_diffusers(),
            "prediction": "v",
            "num_classes": 3,
            "null_class": 3,
            "guidance": 2.0,
            "sampler": "ddim",
            "steps": 5,
            "clip": 1.0,
        },
        "image": {"channels": 1, "height": 8, "width": 8, "range": [-1, 1]},
        "class_names": ["ant", "bee", "cat"],
    }
    saved.save({"net": model}, tmp_path / "model", "card", usage)
    from diffusers import DDIMPipeline, UNet2DModel

    whole = exported(tmp_path / "model", tmp_path / "whole", "--format", "diffusers")
    theirs = UNet2DModel.from_pretrained(whole, subfolder="unet").double().eval()
    x, t = torch.randn(2, 1, 8, 8).double(), torch.tensor([3, 70])
    label = torch.tensor([1, 3])
    both = dlreview.load(tmp_path / "model").double()
    assert_equal(theirs(x, t, label).sample, both(x, t, label))
    card = (whole / "README.md").read_text()
    loop = card.split("```python\n")[1].split("```")[0].replace("10", "3")
    names = {}
    exec(loop, names)  # the card's own code draws
    assert names["x"].shape == (3, 1, 8, 8) and names["x"].isfinite().all()

    for name, number in (("bee", 1), ("none", 3)):
        flags = ("--format", "diffusers", "--class", name)
        alone = exported(tmp_path / "model", tmp_path / name, *flags)
        pipeline = DDIMPipeline.from_pretrained(alone)
        wanted = both(x, t, torch.full((2,), number))
        # the class's row and the bias were added in float32
        assert_equal(pipeline.unet.double()(x, t).sample, wanted, atol=1e-4, rtol=1e-4)


def test_back_again_bit_equal(classifier, unconditional, tmp_path):
    from dlreview.reference import Pretrained

    for run, library in (
        (classifier, "timm"),
        (classifier, "transformers"),
        (classifier, "dlreview"),
        (unconditional, "diffusers"),
    ):
        folder = exported(run, tmp_path / library, "--format", library)
        ours, again = dlreview.load(run).state_dict(), Pretrained(str(folder)).state_dict()
        assert list(ours) == list(again)
        for name, tensor in ours.items():
            assert torch.equal(tensor, again[name]), (library, name)


def test_cards(classifier, tmp_path):
    for library, words in {
        "timm": ["library_name: timm", 'create_model("local-dir:', "pretrained=True"],
        "transformers": ["library_name: transformers", "ViTForImageClassification.from_pretrained"],
        "dlreview": [
            "library_name: dlreview",
            f'net = dlreview.load("{tmp_path}/dlreview")\n',
            "--format timm",
            f"\npython -m dlreview.sample {tmp_path}/dlreview example.png\n",
        ],
    }.items():
        folder = exported(classifier, tmp_path / library, "--format", library, "--license", "mit")
        card = (folder / "README.md").read_text()
        metadata = yaml.safe_load(card.split("---")[1])
        assert metadata["license"] == "mit"
        assert metadata["pipeline_tag"] == "image-classification"
        measured = metadata["model-index"][0]["results"][0]["metrics"]
        assert {metric["name"] for metric in measured} >= {"val/accuracy", "val/loss"}
        for word in [*words, "digits", "class_path: dlreview.nn.vit.ViT", "![samples](sample.png)"]:
            assert word in card, (library, word)
        assert (folder / "sample.png").is_file()


def test_the_command_of_a_card_runs_as_it_stands(classifier, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (classifier / "example.png").is_file()
    for folder in (classifier / "model", exported(classifier, tmp_path / "out")):
        card = (folder / "README.md").read_text()
        command = re.search(r"^python -m dlreview.sample (.*)$", card, re.M)[1].split()
        monkeypatch.chdir(folder if command[0] == "." else tmp_path)
        capsys.readouterr()
        assert sample.main(command) == 0
        line = capsys.readouterr().out.splitlines()[-1]
    pixels = Images("digits")
    pixels.setup()
    image = pixels.test_set[[0]]["image"] / 127.5 - 1
    best = int(dlreview.load(classifier)(image).argmax())
    assert line.startswith(f"example.png  {best} "), "the first picture of the test split"


def test_several_networks_leave_together_or_one_by_one(tmp_path, capsys):
    networks = {"teacher": ViT(8, 4, 12, 1, 3), "words": Word2Vec(3, 4)}
    called = {
        "task": "classification",
        "settings": {},
        "data": "digits",
        "example": ["example.png"],
    }
    (tmp_path / "x.png").write_bytes(b"png")
    files = {"example.png": tmp_path / "x.png"}
    run = tmp_path / "run"
    saved.save(networks, run, "card", called, tmp_path / "x.png", files=files)

    whole = exported(run, tmp_path / "whole")
    names = {str(p.relative_to(run)) for p in run.rglob("*.*")}
    assert {str(p.relative_to(whole)) for p in whole.rglob("*.*")} == names
    assert saved.names(whole) == ["teacher", "words"]
    for name, net in networks.items():
        again = dlreview.load(whole, name).state_dict()
        assert all(torch.equal(x, again[k]) for k, x in net.state_dict().items())
    card = (whole / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    found = {}
    exec(code, found)  # the card's own code loads both
    assert type(found["teacher"]) is ViT and type(found["words"]) is Word2Vec
    assert "# the main network 'teacher': ViT" in code and "# network 'words': Word2Vec" in code
    assert f"python -m dlreview.sample {whole} example.png" in card

    alone = exported(run, tmp_path / "alone", "--network", "words")
    assert {p.name for p in alone.iterdir()} == {*BASE, "usage.json"}
    assert type(dlreview.load(alone)) is Word2Vec
    usage = json.loads((alone / "usage.json").read_text())
    assert usage == {"data": "digits"}, "the task is the main network's"
    assert "dlreview.sample" not in (alone / "README.md").read_text()
    main = exported(run, tmp_path / "main", "--network", "teacher")
    assert json.loads((main / "usage.json").read_text()) == called

    exported(run, tmp_path / "timm", "--format", "timm")  # of the main network
    err = told(capsys, [run, tmp_path / "none", "--format", "timm", "--network", "words"])
    assert "'timm': not for this Word2Vec" in err and "valid: dlreview, gensim" in err
    err = told(capsys, [run, tmp_path / "none", "--network", "wrods"])
    assert "--network: 'wrods' is unknown" in err and "valid: teacher, words" in err


BASE = ("README.md", "config.json", "model.safetensors")


def told(capsys, argv):
    """Return what a refused command says; it must be short and leave nothing."""
    assert export.main([str(word) for word in argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("dlreview.export: ") and len(err.splitlines()) <= 3
    return err


def test_mistakes(classifier, tmp_path, capsys):
    target = tmp_path / "out"
    err = told(capsys, [classifier, target, "--format", "diffusers"])
    assert "'diffusers': not for this ViT" in err
    assert "valid: dlreview, timm, transformers" in err
    assert "did you mean --format?" in told(capsys, [classifier, target, "--fromat", "timm"])
    assert "no such folder" in told(capsys, [tmp_path / "none", target])
    assert "does not draw images of classes" in told(capsys, [classifier, target, "--class", "3"])
    assert "usage:" in told(capsys, [classifier])
    assert list(tmp_path.iterdir()) == []
    target.mkdir()
    (target / "file").touch()
    assert "is not empty" in told(capsys, [classifier, target])
    assert [p.name for p in target.iterdir()] == ["file"]


def test_what_a_library_cannot_read_is_refused_whole(tmp_path, capsys):
    net = ViT(8, 4, 12, 1, 3, norm=LayerNorm(12, eps=0.5))  # of two eps: no library has that
    saved.save({"net": net}, tmp_path / "model", "card")
    err = told(capsys, [tmp_path / "model", tmp_path / "out", "--format", "timm"])
    assert "'timm': not for this ViT" in err
    saved.save({"net": LSTM(3, 5)}, tmp_path / "lstm", "card")
    err = told(capsys, [tmp_path / "lstm", tmp_path / "out", "--format", "torch"])
    assert "not for this LSTM" in err and "valid: dlreview" in err
    assert not (tmp_path / "out").exists()


def test_a_network_without_usage_leaves_too(tmp_path):
    saved.save({"net": ViT(8, 4, 12, 1, 3)}, tmp_path / "model", "card")
    for library in ("timm", "transformers"):
        folder = exported(tmp_path / "model", tmp_path / library, "--format", library)
        assert json.loads((folder / "config.json").read_text())
        assert not (folder / "preprocessor_config.json").exists()


def test_word_vectors(tmp_path):
    from gensim.models import KeyedVectors

    net = Word2Vec(5, 4)  # the last two rows stand for no word
    saved.save({"net": net}, tmp_path / "model", "card", {"words": ["ant", "bee", "cat"]})
    folder = exported(tmp_path / "model", tmp_path / "out", "--format", "gensim")
    vectors = KeyedVectors.load_word2vec_format(folder / "vectors.bin", binary=True)
    assert vectors.index_to_key == ["ant", "bee", "cat"]
    assert_equal(torch.tensor(vectors["bee"].tolist()), net.input.weight[1].detach())
    card = (folder / "README.md").read_text()
    assert f'load_word2vec_format("{folder}/vectors.bin", binary=True)' in card
    code = export.loading('f("{where}/vectors.bin")', "gensim", folder, "ann/words")
    assert code.endswith('f(snapshot_download("ann/words") + "/vectors.bin")')
