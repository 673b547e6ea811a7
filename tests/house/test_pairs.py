"""Each module of the package has its test file, or a reason why not."""

from __future__ import annotations

from tests.house.project import Project, no_findings

# What has no unit test of its own, by where it is tested instead.
ELSEWHERE = {
    "types only: what is to be tested is in their users": (
        "config/base.py",
        "gpu/base.py",
        "runtimes/base.py",
        "switching/events.py",
    ),
    "data of the configuration: tests/unit/config reads, refuses and explains it as files": (
        "config/catalog.py",
        "config/engine_options.py",
        "config/references.py",
        "config/settings.py",
        "config/shape.py",
        "config/weights.py",
    ),
    "tests/house/test_reference.py holds the tree to its page": ("errors.py",),
    "tests/integration/test_embedded.py runs it with real engine processes": (
        "core.py",
        "inference.py",
    ),
    "tests/contract runs it with real processes": (
        "runtimes/helpers.py",
        "runtimes/life.py",
        "runtimes/process.py",
    ),
    "tests/contract runs it with real containers": (
        "runtimes/docker.py",
        "runtimes/docker_guard.py",
        "runtimes/docker_logs.py",
    ),
    "tests/unit/testing/test_fake_engine.py starts the program that they are parts of": (
        "testing/fake_answers.py",
        "testing/fake_http.py",
    ),
    "tests/integration/test_helpers.py runs its two programs as an engine": (
        "testing/fake_npu.py",
    ),
    "tests/integration runs it in a real gateway with real engine processes": (
        "gateway/edge.py",
        "gateway/endpoints.py",
        "gateway/fleet.py",
        "gateway/gauges.py",
        "gateway/narrator.py",
        "gateway/pipeline.py",
        "gateway/relay.py",
        "gateway/roster.py",
        "gateway/routes/console.py",
        "gateway/routes/control.py",
        "gateway/routes/device.py",
        "gateway/routes/health.py",
        "gateway/routes/openai.py",
        "gateway/services.py",
    ),
}


def expected_test(module: str) -> str:
    """Return the test file of `llm_backend/a/b.py`: `tests/unit/a/test_b.py`."""
    folder, _, file = module.removeprefix("llm_backend/").rpartition("/")
    return "/".join(part for part in ("tests/unit", folder, f"test_{file}") if part)


def excepted() -> set[str]:
    return {f"llm_backend/{module}" for modules in ELSEWHERE.values() for module in modules}


def modules_without_test(project: Project) -> set[str]:
    files = {project.name(path) for path in project.files}
    modules = {
        project.name(path) for path in project.under("llm_backend") if path.name != "__init__.py"
    }
    return {module for module in modules if expected_test(module) not in files}


def test_every_module_has_its_test_file(project: Project) -> None:
    no_findings(modules_without_test(project) - excepted())


def test_every_exception_is_still_one(project: Project) -> None:
    no_findings(excepted() - modules_without_test(project))
