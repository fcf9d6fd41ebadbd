"""Config files that are made to do harm, or by mistake: one line, at once."""

import time

import pytest

from meddlr_greedy.config import safe_yaml
from meddlr_greedy.config.safe_yaml import read_yaml
from meddlr_greedy.errors import UserError


def chain(first, line, levels=10):
    """Ten levels, each of which names the one before ten times."""
    return first + "".join(line.format(i=i, before=", ".join([f"*a{i - 1}"] * 10)) for i in range(1, levels))


HOSTILE = {
    "lists of aliases": (chain("a0: &a0 [x, x]\n", "a{i}: &a{i} [{before}]\n"), "more than 10000 values"),
    "mappings of aliases": (
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}\n" for i in range(1, 40)),
        "more than 10000 values",
    ),
    "merged keys": (chain("a0: &a0 {x: 1}\n", "a{i}: &a{i}\n  <<: [{before}]\n  k{i}: 1\n"), "more than 10000 values"),
    "an alias inside of itself": ("a: &a {b: [*a]}", "an alias inside of what it stands for"),
    "nested": ("a: " + "[" * 60 + "]" * 60, "nested deeper than 50 levels"),
    "nested beyond the parser": ("{" * 1500, "no valid YAML"),
    "a huge text": ("a: " + "x" * 2**18, "larger than 256 kB"),
    "a huge integer": ("a: 0x" + "f" * 5000, "an integer of 20000 bits"),
    "an integer of many digits": ("a: " + "9" * 5000, "damaged or not a YAML file"),
    "no date of any calendar": ("OUTPUT_DIR: 2024-13-45", "line 1: found '2024-13-45', to YAML a date"),
    "a date": ("SEED: 1\nMISC: {WHEN: [2024-11-26]}", "line 2: found '2024-11-26', to YAML a date"),
    "a time": ("MISC: {WHEN: 2001-12-14t21:59:43.10-05:00}", "to YAML a date"),
    "binary data": ("MISC: {A: !!binary aGk=}", "to YAML binary data"),
    "a set": ("MISC: {A: !!set {x, y}}", "to YAML a set"),
    "an ordered mapping": ("MISC: {A: !!omap [x: 1]}", "to YAML an ordered mapping"),
    "no name": ("MISC: {~: 3}", "the name of a key is no text (null)"),
    "a list as a name": ("[1, 2]: 3", "the name of a key is no text (seq)"),
    "a date as a name": ("2024-11-26: 3", "the name of a key is no text (timestamp)"),
    "no truth": ("a: !!bool x", "damaged or not a YAML file"),
    "a control character": ("a: \0", "no valid YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_one_line_at_once(tmp_path, name):
    text, words = HOSTILE[name]
    path = tmp_path / "c.yaml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(UserError) as error:
        read_yaml(str(path))
    assert words in str(error.value) and "c.yaml" in str(error.value)
    assert len(str(error.value)) < 500
    assert time.process_time() - start < 10


def test_what_is_no_file_of_text(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("a: \xe9".encode("latin-1"))
    for path, words in (("latin.yaml", "utf-8"), (".", "no regular file"), ("a\0b", "null byte")):
        with pytest.raises(UserError, match=words):
            read_yaml(str(tmp_path / path))
    with pytest.raises(UserError, match="no regular file"):
        read_yaml("/dev/zero")


def test_a_long_chain_of_bases(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_yaml, "_MAX_BASES", 3)
    for i in range(6):
        (tmp_path / f"{i}.yaml").write_text(f"_BASE_: {i + 1}.yaml\nk{i}: 1")
    (tmp_path / "6.yaml").write_text("last: 1")
    with pytest.raises(UserError, match="6.yaml: the base of 4 files"):
        read_yaml(str(tmp_path / "2.yaml"))
    assert read_yaml(str(tmp_path / "4.yaml")) == {"last": 1, "k5": 1, "k4": 1}


def test_what_configs_hold_is_read_as_before(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("A: &a {x: 1e-3, y: [1, 2.5, ~, yes, 'z']}\nB: {<<: *a, x: 2}\n3: *a\nD: '2024-11-26'\n")
    a = {"x": "1e-3", "y": [1, 2.5, None, True, "z"]}
    assert read_yaml(str(path)) == {"A": a, "B": {**a, "x": 2}, "3": a, "D": "2024-11-26"}
