"""Weights with the names of wrappers are read like plain ones, from folders and from the hub."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from dlreview import export, saved
from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.vit import ViT
from dlreview.reference import Pretrained
from dlreview.reference.wrapped import plain_name
from tests.hub_server import Hub
from tests.parity import scramble


@pytest.mark.parametrize("library", ["timm", "transformers", "diffusers", "dlreview"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_names(library, prefix, tmp_path, monkeypatch):
    net = ViT(8, 2, 12, 1, 3, 5, image_channels=1)
    if library == "diffusers":
        net = DiffusionUNet(1, [4, 8], [False, True], None, 1, groups=2)
    saved.save({"net": scramble(net).float()}, tmp_path / "ours", "card")
    words = [str(tmp_path / "ours"), str(tmp_path / "theirs"), "--format", library]
    assert export.main(words) == 0
    (file,) = (tmp_path / "theirs").glob("*.safetensors")
    state = {prefix + name: tensor for name, tensor in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})
    again = Pretrained(str(tmp_path / "theirs")).state_dict()
    for name, tensor in saved.load(tmp_path / "ours").state_dict().items():
        assert torch.equal(tensor, again[name])
    if prefix == "module." and library != "dlreview":
        file.unlink()
        torch.save(state, file.with_name({"diffusers": "diffusion_"}.get(library, "")
                                         + "pytorch_model.bin"))  # fmt: skip
        with Hub() as hub:
            hub.point_clients(monkeypatch, tmp_path / "cache")
            hub.add_folder("ann/net", tmp_path / "theirs")
            hubs = Pretrained("ann/net").state_dict()
        assert all(torch.equal(tensor, hubs[name]) for name, tensor in again.items())


def test_other_names_stay():
    assert plain_name("encoder._orig_mod.modules.0.weight") == "encoder.modules.0.weight"
    assert plain_name("my_module.weight") == "my_module.weight"
