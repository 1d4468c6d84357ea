import subprocess
import sys
import textwrap

import pytest
from torch import nn

from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.reference import find_map, formats, from_reference, to_reference


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
