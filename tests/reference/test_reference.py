import re
import subprocess
import sys
import textwrap

import pytest
import timm
import torch
from torch import nn

from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.reference import find_map, formats, from_reference, to_reference
from dlreview.reference.maps import no_map
from dlreview.reference.swin import REFUSED as SWIN_REFUSED
from dlreview.reference.vit_transformers import REFUSED


def test_unknown_classes_are_named():
    with pytest.raises(
        ValueError, match=r"no map for torch\.nn\.\S+\.Conv2d; valid: .*UNet2DModel"
    ):
        from_reference(nn.Conv2d(1, 1, 1))
    assert formats(nn.Conv2d(1, 1, 1)) == []
    with pytest.raises(ValueError, match=r"'timm' has no class for this .*Conv2d; valid: none"):
        to_reference(nn.Conv2d(1, 1, 1), "timm")
    net = DiffusionUNet(1, [4], [False], groups=2)
    with pytest.raises(ValueError, match="valid: diffusers"):
        to_reference(net, "timm")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("transformers.models.siglip.modeling_siglip.SiglipVisionModel", "vit_base_patch16_siglip"),
        ("transformers.BeitModel", "relative positions"),
        ("transformers.SwinForImageClassification", "timm has this architecture"),
        ("transformers.Swinv2Model", "cosines"),
        ("timm.models.swin_transformer_v2.SwinTransformerV2", "cosines"),
        ("torchvision.models.swin_transformer.SwinTransformer", "timm has this architecture"),
        (
            "transformers.models.dinov2.modeling_dinov2.Dinov2Backbone",
            "is transformers.Dinov2M",
        ),
        ("timm.models.eva.Eva", "rotary positions"),
        ("diffusers.models.unets.unet_1d.UNet1DModel", "is diffusers.UNet2DModel; valid"),
    ],
)
def test_a_refusal_names_the_reason_or_the_nearest_class(path, said):
    assert no_map(path).startswith(f"there is no map for {path}") and said in no_map(path)


def test_the_names_of_timm_in_refusals_are_supported():
    """Each is a model of timm whose class has a map."""
    reasons = REFUSED | SWIN_REFUSED
    named = {name for reason in reasons.values() for name in re.findall("'([a-z].*?)'", reason)}
    assert len(named) == 5
    for name in named:
        assert timm.is_model_pretrained(name)
        with torch.device("meta"):
            small = {"depth": 1, "num_heads": 3, "embed_dim": 24}
            swin = {"depths": (1, 1), "num_heads": (1, 2), "embed_dim": 24}
            theirs = timm.create_model(name, **swin if "swin" in name else small)
            from_reference(theirs)


def test_a_class_of_the_same_name_is_not_confused():
    class LSTM(nn.LSTM):
        pass

    assert find_map(nn.LSTM(2, 3)).theirs == "torch.nn.LSTM"
    with pytest.raises(ValueError, match="no map"):
        find_map(LSTM(2, 3))


def test_no_library_is_imported_before_it_is_needed():
    script = """
        import sys

        from torch import nn
        from dlreview.reference import from_reference, to_reference, formats

        net = from_reference(nn.RNN(2, 3))
        assert formats(net) == ["torch"]
        to_reference(net, "torch")
        assert not {"timm", "transformers", "diffusers", "gensim"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=300)
