"""The card has the hub's metadata, and says how each network is loaded and called."""

import yaml

from dlreview.saved.card import card, how_to_load

USAGE = {
    "data": "ann/digits",
    "split": "test",
    "weights": "averaged",
    "metrics": {"val/accuracy": 0.5, "train/loss": 1.25, "note": "text"},
    "recipe": {"data": {"class_path": "x"}},
}


def test_metadata_and_measurements():
    text = card("ViT", USAGE, "code", tag="image-classification", picture="sample.png")
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "dlreview" and head["license"] == "apache-2.0"
    assert head["pipeline_tag"] == "image-classification" and head["datasets"] == ["ann/digits"]
    [result] = head["model-index"][0]["results"]
    assert [m["name"] for m in result["metrics"]] == ["val/accuracy"], "not of the training split"
    for words in (
        "# ViT\n",
        "The weights are the exponential moving average",
        "![samples](sample.png)",
        "## How to load it\n\ncode\n",
        "| train/loss | 1.25 |\n| val/accuracy | 0.5 |\n",
        "class_path: x",
    ):
        assert words in text


def test_without_a_task_or_data():
    text = card("ViT", {}, "code")
    head = yaml.safe_load(text.split("---")[1])
    assert "pipeline_tag" not in head and "datasets" not in head and "model-index" not in head
    assert "Written with dlreview" in text and "## Measured" not in text and "![" not in text


def test_each_network_has_its_line():
    text = how_to_load({"generator": "Hourglass", "discriminator": "ResNet"}, "ann/gan")
    assert 'generator = dlreview.load("ann/gan")  # the main network' in text
    assert 'discriminator = dlreview.load("ann/gan", "discriminator")  # network' in text
    assert "From the command line" not in text and "For other libraries" not in text


def test_one_network_with_its_command_and_formats():
    text = how_to_load({"net": "ViT"}, ".", "python -m x", "runs/0", ["timm", "transformers"])
    assert 'net = dlreview.load(".")\n```' in text and "\npython -m x\n" in text
    assert "\npython -m dlreview.export runs/0 DIR --format timm\n" in text
    assert "\npython -m dlreview.export m DIR --format timm\n" in how_to_load(
        {"net": "ViT"}, "m", formats=["timm"]
    )
