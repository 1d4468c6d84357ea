"""Recipes are read strictly: a mistake is named, and nothing in a file is executed."""

import pytest

from dlreview.messages import UserError, nearest
from dlreview.running.recipe import override, parse, read

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("2.0e-3", 2e-3),
        (".5", 0.5),
        ("-7", -7),
        ("1_000", 1000),
        ("no", "no"),
        ("12:30:00:00", "12:30:00:00"),
        ("true", True),
        ("null", None),
        ("~", None),
        (".inf", float("inf")),
        ("'1'", "1"),
        ("[1, a]", [1, "a"]),
    ],
)
def test_plain_values_mean_what_yaml_1_2_says(text, value):
    assert parse(f"key: {text}") == {"key": value}


def test_anchors_and_merge_keys_are_legal():
    assert parse("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1},
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2", "twice"),
        ("a: {b: 1, b: 2}", "twice"),
        ("a: !!python/object/apply:os.system ['true']", "tags"),
        ("a: !mine 1", "tags"),
        ("a: 1\n---\nb: 2", "document"),
        (LAUGHS, "expands"),
        ("a: &a [*a]", "contains itself"),
        ("a: [1, 2", "not YAML"),
        ("a: 1\n\tb: 2", "not YAML"),
        ("? [1, 2]\n: 3", "key must be a word"),
        ("a: \x00", "not YAML"),
        ("[" * 3000, "nested|not YAML"),
    ],
)
def test_what_is_refused(text, told):
    with pytest.raises(UserError, match=told):
        parse(text)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "mapping"),
        (b"- a\n- b\n", "mapping"),
        (b"just words", "mapping"),
        (b"\x80\x81\xff\xfe\x00", "UTF-8"),
        (b"#" * 2_000_000, "larger"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, content, told):
    file = tmp_path / "r.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=told):
        read(file)


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "quickstart.yaml").write_text("a: 1")
    with pytest.raises(UserError, match=r"did you mean quickstart\.yaml"):
        read(tmp_path / "quickstrat.yaml")


def test_overrides_reach_every_place():
    tree = {
        "model": {"class_path": "X", "init_args": {"net": {"class_path": "Y"}}},
        "trainer": {"callbacks": ["a.B"]},
    }
    override(tree, "model.net.width", "3")
    override(tree, "model.init_args.net.init_args.depth", "4")
    override(tree, "trainer.max_steps", "5")
    override(tree, "trainer.callbacks.0.decay", "1e-1")
    override(tree, "model.net", "Z")
    assert tree == {
        "model": {
            "class_path": "X",
            "init_args": {"net": {"class_path": "Z", "init_args": {"width": 3, "depth": 4}}},
        },
        "trainer": {
            "callbacks": [{"class_path": "a.B", "init_args": {"decay": 0.1}}],
            "max_steps": 5,
        },
    }


@pytest.mark.parametrize("key", ["trainer.max_steps.deeper", "trainer.callbacks.7"])
def test_overrides_through_a_value_are_refused(key):
    with pytest.raises(UserError, match=key):
        override({"trainer": {"max_steps": 1, "callbacks": []}}, key, "1")


def test_the_nearest_key_is_named():
    assert nearest("widht", ["width", "depth"]).startswith("did you mean width?")
