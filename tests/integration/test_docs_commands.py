"""What the documents say to type is typed: the tutorial on real models, the how-tos on fake engines.

Each block of commands in README.md, the tutorial and the how-tos is run here as it is printed, by
another test that is named, or it is explained why not.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import yaml

from llm_backend.runtimes.ports import free_port
from tests.harness import PATIENCE_S, REPOSITORY, fake_model
from tests.integration.docs_exceptions import BLOCKS, PAGES
from tests.unit.cli.test_bootstrap import require, wheel

pytestmark = [pytest.mark.engine, pytest.mark.feature("commands in the documents")]

FENCE: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SHELL: Final = ("", "bash", "console", "sh", "shell")
TUTORIAL: Final = "docs/tutorial/first-ten-minutes.md"
MODELS: Final = ("smollm2-long", "smollm2-wide", "qwen-vl", "qwen-14b", "qwen-coder")
STAND_INS: Final = {
    '"model": "ID"': '"model": "smollm2-long"',
    "switch_model.sh ID": "switch_model.sh smollm2-wide",
    "logs.sh MODEL": "logs.sh smollm2-long",
    "logs.sh qwen-14b": "logs.sh smollm2-long",
    "grep 1f0c9a3e": "grep switch_ended",
}
"""What stands for something of the reader's own."""

OF_THE_MODEL: Final = "Paris"
"""A line with this word is a model's: its other words differ from one processor to the next."""


@dataclass(frozen=True)
class Block:
    """Commands of a document, and the output that is shown after them, if any."""

    page: str
    kind: str
    text: str
    output: str = ""

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0]

    @property
    def why_not(self) -> str:
        """Why it is not run here, or which test runs it; empty where it is run."""
        of_page = next((why for start, why in PAGES.items() if self.page.startswith(start)), "")
        return of_page or BLOCKS.get((self.page, self.first_line), "")


def blocks(page: Path) -> Iterator[Block]:
    name = page.relative_to(REPOSITORY).as_posix()
    found = [
        (kind, re.sub(f"^{indent}", "", text, flags=re.MULTILINE))
        for indent, kind, text in FENCE.findall(page.read_text())
    ]
    for (kind, text), (next_kind, next_text) in itertools.pairwise([*found, ("", "")]):
        if kind in {*SHELL, "python"}:
            yield Block(name, kind, text, next_text if next_kind == "text" else "")


def all_blocks() -> list[Block]:
    docs = REPOSITORY / "docs"
    pages = [REPOSITORY / "README.md", *(docs / "tutorial").glob("*.md")]
    pages += sorted((docs / "howto").rglob("*.md"))
    return [block for page in pages for block in blocks(page)]


def run_here() -> list[object]:
    """Every block of the README and the how-tos that is run, in their order, equal ones once."""
    here = [b for b in all_blocks() if b.page != TUTORIAL and not b.why_not]
    once = {(b.text, b.output): b for b in reversed(here)}
    found = reversed(once.values())
    return [pytest.param(b, id=f"{Path(b.page).stem}: {b.first_line[:50]}") for b in found]


class Reader:
    """Somebody with a checkout and a home of their own, who types what is printed."""

    def __init__(self, checkout: Path, home: Path) -> None:
        self.checkout = checkout
        self.address = f"127.0.0.1:{free_port('127.0.0.1')}"
        self.state = home / ".local/state/llm-backend"
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("LLM_", "VIRTUAL_", "XDG_"))
        }
        self.environment = kept | {
            "HOME": str(home),
            "LLM_BASE_URL": f"http://{self.address}",
            "LLM_SERVER__PORT": self.address.rpartition(":")[2],
            "NO_COLOR": "1",
            "PATH": f"{checkout / '.venv/bin'}:{os.environ['PATH']}",
        }

    def type(self, block: Block) -> str:
        """Run a block; return what it writes. It must end well."""
        text = block.text.replace("localhost:7000", self.address)
        for mine, instead in STAND_INS.items():
            text = text.replace(mine, instead)
        program = (
            [".venv/bin/python", "-"] if block.kind == "python" else ["bash", "-euo", "pipefail"]
        )
        command = program if block.kind == "python" else [*program, "-c", text]
        done = subprocess.run(
            command,
            cwd=self.checkout,
            env=self.environment,
            input=text if block.kind == "python" else "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout


def shape(output: str) -> re.Pattern[str]:
    """What an output must look like: `...` stands for anything, figures for figures."""
    return re.compile("".join(map(_line, output.strip("\n").splitlines())))


def _line(line: str) -> str:
    if line == "...":
        return r"(?:.*\n)*?"
    if OF_THE_MODEL in line:
        return rf".*{OF_THE_MODEL}.*\n"
    words = re.escape(line).replace(r"\.\.\.", ".*")
    return re.sub(r"\d+(\\\.\d+)*", lambda _: r"\d+(?:\.\d+)*", words) + r"\n"


def assert_shown(block: Block, written: str) -> None:
    lines = "".join(f"{line.rstrip()}\n" for line in written.strip("\n").splitlines())
    said = f"{block.text}\nprints\n{lines}\nnot\n{block.output}"
    assert shape(block.output).fullmatch(lines), said


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkout whose requirements lead to what is installed here already."""
    root = tmp_path_factory.mktemp("docs") / "llm-backend"
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("llm_backend", "scripts", "config"):
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=ignore)
    here = sysconfig.get_path("purelib")
    require(root, "base", wheel(root, "borrowed", "1.0", {"borrowed.pth": f"{here}\n"}))
    require(root, "local", wheel(root, "trinket", "1.0"))
    return root


@pytest.fixture(scope="module")
def learner(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Somebody who begins with nothing."""
    reader = Reader(checkout, tmp_path_factory.mktemp("learner"))
    yield reader
    reader.type(Block("", "", "llm-backend stop"))


@pytest.fixture(scope="module")
def reader(
    learner: Reader, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reader]:
    """Somebody whose gateway runs, with the models that the how-tos name, and something to commit."""
    home = tmp_path_factory.mktemp("reader")
    reader = Reader(checkout, home)
    models = {name: fake_model(home, name) for name in MODELS}
    models["smollm2-long"]["aliases"] = ["smollm2"]
    catalog = {"devices": {"cpu": {"kind": "cpu"}}, "models": models}
    (checkout / "config/models.yaml").write_text(yaml.safe_dump(catalog, sort_keys=False))
    shutil.rmtree(checkout / "config/engines")
    start = "bash scripts/start_all.sh --yes --detach\ngit init --quiet && git add scripts"
    reader.type(Block("", "", f"{start}\necho >> scripts/logs.sh"))
    yield reader
    reader.type(Block("", "", "llm-backend stop"))


def test_every_block_is_run_or_explained_and_every_explanation_needed() -> None:
    found = all_blocks()
    run = [b for b in found if not b.why_not]
    needless = [key for key in BLOCKS if not any((b.page, b.first_line) == key for b in found)]

    assert len(run) >= 30
    assert needless == []
    assert [start for start in PAGES if not any(b.page.startswith(start) for b in found)] == []


def test_the_tests_that_are_named_exist() -> None:
    named = [
        file
        for why in (*PAGES.values(), *BLOCKS.values())
        for file in re.findall(r"tests/[\w/.]+\.py", why)
    ]

    assert named
    assert [file for file in named if not (REPOSITORY / file).exists()] == []


def test_the_tutorial_does_what_it_shows(learner: Reader) -> None:
    steps = list(blocks(REPOSITORY / TUTORIAL))
    assert len(steps) >= 10
    for step in steps:
        assert step.output, f"no output is shown after: {step.text}"
        assert_shown(step, learner.type(step))


@pytest.mark.parametrize("block", run_here())
def test_what_a_page_says_to_type_works(reader: Reader, block: Block) -> None:
    written = reader.type(block)

    if block.output:
        assert_shown(block, written)
