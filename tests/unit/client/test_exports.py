"""What `from llm_backend import ...` offers, and what it costs."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import llm_backend
import llm_backend.client
from llm_backend import errors

MODULES = [
    f"llm_backend.client.{m.name}" for m in pkgutil.iter_modules(llm_backend.client.__path__)
]


def test_all_is_sorted_and_holds_the_client_the_errors_and_the_version() -> None:
    tree = {name for name, item in vars(errors).items() if inspect.isclass(item)}
    tree = {name for name in tree if vars(errors)[name].__module__ == errors.__name__}
    others = {"InferenceService", "LLMClient", "LLMClientSync", "__version__"}
    assert set(llm_backend.__all__) == tree | others
    assert list(llm_backend.__all__) == sorted(llm_backend.__all__)
    assert llm_backend.LLMClient is llm_backend.client.LLMClient
    assert llm_backend.LLMClientSync is llm_backend.client.LLMClientSync


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'LLMServer'"):
        _ = llm_backend.LLMServer  # type: ignore[attr-defined]  # that is the point


def test_the_package_imports_no_http_stack_until_the_client_is_asked_for() -> None:
    program = (
        "import sys, llm_backend; assert 'httpx2' not in sys.modules; "
        "llm_backend.LLMClient; assert 'httpx2' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_client_brings_neither_the_switcher_nor_pydantic() -> None:
    program = (
        "import sys; from llm_backend import LLMClientSync, LLMClient; "
        "from llm_backend.client.schema import shape_of; shape_of(None); "
        "loaded = {'pydantic', 'jsonschema_rs', 'llm_backend.switching', 'llm_backend.config'}; "
        "assert not loaded & sys.modules.keys(); "
        "from llm_backend import InferenceService; assert 'llm_backend.switching' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("name", MODULES)
def test_the_client_imports_nothing_of_ours_but_errors_and_wire(name: str) -> None:
    tree = ast.parse(Path(inspect.getfile(importlib.import_module(name))).read_text("utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {module for module in imported if module and module.startswith("llm_backend")}
    allowed = {"llm_backend.errors", "llm_backend.wire"}
    assert all(module in allowed or module.startswith("llm_backend.client") for module in ours)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
