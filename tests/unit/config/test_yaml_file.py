"""YAML without guessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_backend.config.yaml_file import parse_value, read
from llm_backend.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "file.yaml"


def value(file: Path, text: str) -> Any:
    file.write_text(text, encoding="utf-8")
    source, problems = read(file)
    assert problems == []
    return source.data


def faults(file: Path, text: str) -> list[str]:
    file.write_text(text, encoding="utf-8")
    return [str(problem) for problem in read(file)[1]]


def refusal(file: Path, data: bytes) -> str:
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read(file)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("true", True),
        ("false", False),
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("True", "True"),
        ("null", None),
        ("~", None),
        ("", None),
        ("~/state", "~/state"),
        ("7000", 7000),
        ("-5", -5),
        ("0", 0),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0.90", 0.9),
        (".5", 0.5),
        ("1e5", "1e5"),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("2026-01-01", "2026-01-01"),
        ("1" * 40, "1" * 40),
        ("'7000'", "7000"),
        ("!!str 7000", "7000"),
        ("[1, a, {b: c}]", [1, "a", {"b": "c"}]),
    ],
)
def test_meaning_of_a_value(file: Path, text: str, meaning: object) -> None:
    read_back = value(file, f"key: {text}\n")["key"]
    assert (type(read_back), read_back) == (type(meaning), meaning)


def test_every_value_knows_its_line(file: Path) -> None:
    file.write_text("# comment\na:\n  b: 1\n\n  c:\n    - x\n    - y\n", encoding="utf-8")
    source, _ = read(file)
    lines = {loc: origin.line for loc, origin in source.origins.items()}
    assert lines == {
        (): 1,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 5,
        ("a", "c", 0): 6,
        ("a", "c", 1): 7,
    }
    assert source.origin(("a", "c", 1)).where == "file.yaml:7"
    assert source.origin(("a", "missing", 3)).name == "a.missing[3]"


def test_anchors_aliases_and_merge_keys(file: Path) -> None:
    text = """\
a: &base {x: 1, y: 2}
b: {<<: *base, y: 3}
c: &b {<<: [*base], z: 4}
d: *b
e: *b
"""
    assert value(file, text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2, "z": 4},
        "d": {"x": 1, "y": 2, "z": 4},
        "e": {"x": 1, "y": 2, "z": 4},
    }


def test_windows_line_ends_and_byte_order_mark(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    source, _ = read(file)
    assert source.data == {"a": 1, "b": 2}
    assert source.origin(("b",)).line == 2


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "\n\n"])
def test_nothing_is_an_empty_mapping(file: Path, text: str) -> None:
    assert value(file, text) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", ["file.yaml:3: a: given twice; line 1 has it too"]),
        ("x: {a: 1, a: 1}\n", ["file.yaml:1: x.a: given twice; line 1 has it too"]),
        ("a: {7: x}\n", ["file.yaml:1: a: every key must be text; put it in quotes"]),
        ("? [a, b]\n: x\n", ["file.yaml:1: every key must be text; put it in quotes"]),
        ("a: !mine x\n", ["file.yaml:1: a: the tag !mine is not allowed"]),
        ("a: !mine {x: 1}\n", ["file.yaml:1: a: the tag !mine is not allowed"]),
        ("a: !!int x\n", ["file.yaml:1: a: the tag !!int is not allowed"]),
        (
            "a: !!python/name:os.system x\n",
            ["file.yaml:1: a: the tag !!python/name:os.system is not allowed"],
        ),
        ("a: &a [*a]\n", ["file.yaml:1: a[0]: contains itself"]),
        ("a: &a\n  b: *a\n", ["file.yaml:2: a.b: contains itself"]),
        ("a:\n  <<: 3\n  b: 1\n", ["file.yaml:2: a: what '<<' merges must be a mapping"]),
    ],
)
def test_faults(file: Path, text: str, said: list[str]) -> None:
    assert faults(file, text) == said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"- a\n- b\n", "file.yaml:1: the file must be a mapping: lines of 'key: value'"),
        (b"# x\njust text\n", "file.yaml:2: the file must be a mapping: lines of 'key: value'"),
        (
            b"a:\n\tb: 1\n",
            "file.yaml:2: not valid YAML at column 1: a tab; YAML indents with spaces",
        ),
        (
            b"a:\n  b: 1\n \tc: 2\n",
            "file.yaml:3: not valid YAML at column 2: a tab; YAML indents with spaces",
        ),
        (
            b"purpose: chat: and code\n",
            (
                "file.yaml:1: not valid YAML at column 14: "
                "a colon too many; put the value in quotes, or mend the indentation"
            ),
        ),
        (
            b"a: [1, 2\nb: 3\n",
            (
                "file.yaml:2: not valid YAML at column 2: "
                "expected ',' or ']', but got ':' (while parsing a flow sequence)"
            ),
        ),
        (b"a: *b\n", "file.yaml:1: not valid YAML at column 4: found undefined alias 'b'"),
        (
            b"a: 1\n---\nb: 2\n",
            (
                "file.yaml:2: not valid YAML at column 1: "
                "but found another document (expected a single document in the stream)"
            ),
        ),
        (b"a: 1\nb: \x07\n", "file.yaml:2: the character U+0007 is not allowed"),
        (b"a: 1\n# \xe9\n", "file.yaml:2: the byte 0xe9 is not UTF-8; save the file as UTF-8."),
    ],
)
def test_refusals(file: Path, data: bytes, said: str) -> None:
    assert refusal(file, data) == said


def test_a_directory_is_no_file(file: Path) -> None:
    file.mkdir()
    with pytest.raises(ConfigError, match=r"^file\.yaml: cannot be read: Is a directory\.$"):
        read(file)


def test_a_value_alone() -> None:
    assert parse_value("[a, 1]") == ["a", 1]
    assert parse_value("[a, 1") == "[a, 1"
    assert parse_value("# nothing") is None
