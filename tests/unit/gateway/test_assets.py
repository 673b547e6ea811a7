"""The static files: their tags, their policy, and what the page's own files promise it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_backend.errors import NotFound
from llm_backend.gateway.assets import CONSOLE, INDEX, POLICY, Assets


@pytest.fixture
def assets(tmp_path: Path) -> Assets:
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "main.js").write_text("export {};")
    return Assets(tmp_path.iterdir())


def test_a_file_has_its_type_a_tag_and_the_policy(assets: Assets) -> None:
    answer = assets.answer("main.js", None)

    assert (answer.status_code, bytes(answer.body)) == (200, b"export {};")
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert re.fullmatch(r'"[0-9a-f]{24}"', answer.headers["etag"])
    assert answer.headers["etag"] != assets.answer(INDEX, None).headers["etag"]


def test_who_has_it_already_gets_no_bytes(assets: Assets) -> None:
    tag = assets.answer(INDEX, None).headers["etag"]

    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = assets.answer(INDEX, known)
        assert (answer.status_code, bytes(answer.body)) == (304, b"")
        assert answer.headers["etag"] == tag
    assert assets.answer(INDEX, '"other"').status_code == 200


@pytest.mark.parametrize("name", ["", "nothing.js", "../assets.py", "/etc/passwd", "MAIN.JS"])
def test_there_are_no_other_files(assets: Assets, name: str) -> None:
    with pytest.raises(NotFound):
        assets.answer(name, None)


def test_the_policy_lets_in_nothing_from_elsewhere() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))

    assert rules.pop("img-src") == "'self' data: blob:"
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert set(rules.values()) == {"'self'", "'none'"}


def texts(suffix: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in CONSOLE.glob(f"*{suffix}")}


def test_the_page_has_no_script_or_style_within() -> None:
    (page,) = texts(".html").values()

    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", page) == []


def test_every_file_is_used_and_every_import_is_there() -> None:
    scripts = texts(".js")
    (page,) = texts(".html").values()
    named = set(re.findall(r'"/console/([^"]+)"', page))
    imported = {name for text in scripts.values() for name in re.findall(r'from "\./(.+)"', text)}

    assert named | imported == {path.name for path in CONSOLE.iterdir()} - {INDEX}


def test_text_is_never_read_as_markup() -> None:
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function"

    assert [name for name, text in texts(".js").items() if re.search(ways, text)] == []


def test_every_element_that_a_script_asks_for_is_on_the_page() -> None:
    (page,) = texts(".html").values()
    known = set(re.findall(r'\sid="([^"]+)"', page))
    asked = {i for text in texts(".js").values() for i in re.findall(r'\$\("([\w-]+)"\)', text)}

    assert asked <= known
