import json

import pytest
import torch
import yaml

from dlreview import export, fit, saved
from dlreview.limits import without_memory
from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.time_embedding import ClassLabel
from dlreview.nn.vit import ViT
from dlreview.reference import Pretrained
from tests.hub_server import Hub
from tests.parity import scramble

LIBRARIES = ("timm", "transformers", "diffusers", "dlreview")


def network(library):
    if library == "diffusers":
        return DiffusionUNet(1, [4, 8], [False, True], ClassLabel(6), 1, groups=2)
    return ViT(8, 2, 12, 2, 3, 10, image_channels=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each library."""
    root = tmp_path_factory.mktemp("folders")
    for library in LIBRARIES:
        saved.save({"net": scramble(network(library)).float()}, root / f"{library}-ours", "card")
        words = [str(root / f"{library}-ours"), str(root / library), "--format", library]
        assert export.main(words) == 0
    return root


def assert_same(net, folder):
    wanted = saved.load(folder).state_dict()
    assert list(wanted) == list(net.state_dict())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


@pytest.mark.parametrize("library", LIBRARIES)
def test_folders(library, folders):
    net = Pretrained(str(folders / library))
    assert type(net) is type(network(library)) and net.training
    assert all(p.requires_grad for p in net.parameters())
    assert_same(net, folders / f"{library}-ours")
    with without_memory():
        checked = Pretrained(str(folders / library))
    assert {p.device.type for p in checked.parameters()} == {"meta"}
    assert saved.config_of(checked) == saved.config_of(net)


@pytest.mark.parametrize("library", LIBRARIES)
def test_repositories(library, folders, monkeypatch, tmp_path):
    with Hub() as hub:
        hub.point_clients(monkeypatch, tmp_path / "cache")
        hub.add_folder("ann/net", folders / library)
        with without_memory():
            checked = Pretrained("ann/net")
        fetched = {path for _, path in hub.seen if path.endswith("safetensors")}
        assert not fetched, "a recipe is checked without its weights"
        net = Pretrained("ann/net")
    assert_same(net, folders / f"{library}-ours")
    assert saved.config_of(checked) == saved.config_of(net)


def test_a_new_head_learns_while_the_rest_is_frozen(folders):
    net = Pretrained(str(folders / "timm"), frozen=True, num_classes=7)
    assert net.num_classes == 7 and not net.training
    learning = {name for name, p in net.named_parameters() if p.requires_grad}
    assert learning == {"head.weight", "head.bias"}
    kept = saved.load(folders / "timm-ours").state_dict()
    for name, tensor in net.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(tensor, kept[name])
    same = Pretrained(str(folders / "timm"), num_classes=10)
    assert_same(same, folders / "timm-ours")


def test_mistakes(folders, tmp_path):
    with pytest.raises(OSError, match="no such folder"):
        Pretrained(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="is no model of dlreview, timm, transformers, diffusers"):
        Pretrained(str(tmp_path))
    for config, expected in {
        '{"architectures": ["BloomModel"]}': "no map for transformers.BloomModel; .*valid: ",
        '{"_class_name": "Thief"}': "no map for diffusers.Thief; valid: ",
        '{"architecture": "vit_of_mine"}': "timm cannot load it: Unknown model",
    }.items():
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ValueError, match=expected):
            Pretrained(str(tmp_path))


def test_a_recipe_may_start_from_it(folders, tmp_path):
    path = str(folders / "transformers")
    net = {"class_path": "dlreview.reference.Pretrained", "init_args": {"path": path}}
    recipe = {
        "model": {
            "class_path": "dlreview.learners.classifier.Classifier",
            "init_args": {"net": net},
        },
        "data": {
            "class_path": "dlreview.data.images.Images",
            "init_args": {"path": "digits", "batch_size": 512},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = [str(tmp_path / "recipe.yaml"), "--wandb", "off"]
    assert fit.main([*words, "--out", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["class_path"] == "dlreview.nn.vit.ViT"
    assert "Pretrained" not in json.dumps(config)


def test_one_of_several_networks(tmp_path):
    networks = {"teacher": network("timm"), "student": network("diffusers")}
    saved.save(networks, tmp_path, "card")
    for name, net in {None: networks["teacher"], **networks}.items():
        started = Pretrained(str(tmp_path), subfolder=name)
        assert type(started) is type(net)
        for key, tensor in net.state_dict().items():
            assert torch.equal(tensor, started.state_dict()[key])
        with without_memory():
            checked = Pretrained(str(tmp_path), subfolder=name)
        assert saved.config_of(checked) == saved.config_of(net)


def test_an_unfinished_run(tmp_path):
    net = network("timm")
    entry = {"networks": {"net": saved.config_of(net)}, "usage": {}}
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    (tmp_path / "checkpoints").mkdir()
    content = {"state_dict": state, "dlreview": entry}
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    assert type(Pretrained(str(tmp_path))) is type(net)


def test_a_recipe_that_starts_from_nothing_is_refused(folders, tmp_path, capsys):
    recipe = f"""
model:
  class_path: dlreview.learners.classifier.Classifier
  init_args:
    net:
      class_path: dlreview.reference.Pretrained
      init_args: {{path: {tmp_path / "none"}}}
data: {{class_path: dlreview.data.images.Images}}
"""
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert fit.main([str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert "none: there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
