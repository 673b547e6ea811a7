"""`llm-backend serve`: the gateway itself, in the foreground."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_backend.cli.bring_up import MODEL_VARIABLE
from llm_backend.cli.one_off import OneOff, one_off
from llm_backend.cli.options import SetupOption
from llm_backend.cli.project import Project, open_project
from llm_backend.cli.reload import serve_and_reload
from llm_backend.cli.take_down import sweep
from llm_backend.cli.terminal import Terminal
from llm_backend.config import Catalog, Settings, check, refuse
from llm_backend.engines.launch_options import LaunchOptions
from llm_backend.errors import AlreadyRunning, SetupError
from llm_backend.runtimes.locks import gateway_lock

OF_ONE_MODEL = (
    "device",
    "quantization",
    "tensor_parallel_size",
    "max_model_len",
    "gpu_memory_utilization",
)
"""Options that make sense with --model-path alone."""


def serve(  # noqa: PLR0913, PLR0917  # an argument for each option
    context: typer.Context,
    setup: SetupOption = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            envvar="LLM_SERVICE_PORT",
            help="Port to listen on; 0 takes any.",
        ),
    ] = None,
    model_path: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|REPO",
            envvar=MODEL_VARIABLE,
            help="Serve this model instead of the catalog: a GGUF file, a directory with "
            "config.json, or OWNER/NAME[/FILE.gguf] of the model hub.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="DEVICE", envvar="LLM_DEVICE", help="Where: auto, cpu, cuda or cuda:N."
        ),
    ] = "auto",
    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            envvar="LLM_QUANTIZATION",
            help="4bit, 8bit or none; for vLLM also awq, gptq, bitsandbytes, fp8.",
        ),
    ] = None,
    tensor_parallel_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Spread it over N GPUs (vLLM).")
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(min=128, metavar="N", help="Tokens of prompt and answer together."),
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option(min=0.05, max=1, metavar="F", help="Share of the GPU to take (vLLM)."),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew when a file in config/, or .env, changes.")
    ] = False,
    keep_engine: Annotated[
        bool, typer.Option("--keep-engine", hidden=True, help="Leave the engine to the next one.")
    ] = False,
    log_file: Annotated[
        Path | None, typer.Option(hidden=True, help="Where standard output goes, for the record.")
    ] = None,
) -> None:
    """Run the gateway in the foreground.

    As a service manager wants it: nothing is asked, no model is loaded, SIGTERM ends it. Set-up
    is local, unless compose is asked for, as docker-compose.yml does.

    With --model-path it serves that one model, which is loaded at once, and whose engine ends
    with it.
    """
    _refuse_strays(context, model_path)
    flags = {"setup": setup, "server.host": host, "server.port": port}
    if reload:
        raise typer.Exit(_reload(context.params, flags, has_model=model_path is not None))
    if model_path is None:
        raise typer.Exit(_serve_catalog(flags, log_file))
    options = LaunchOptions(
        max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory_utilization,
        quantization=quantization,
        tensor_parallel_size=tensor_parallel_size,
    )
    wish = OneOff(model_path, device, options)
    raise typer.Exit(_serve_one(flags, wish, log_file, keep_engine=keep_engine))


def _refuse_strays(context: typer.Context, model_path: str | None) -> None:
    if model_path is not None:
        return
    for name in OF_ONE_MODEL:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{option} goes with --model-path.")


def _serve_catalog(flags: Mapping[str, Any], log_file: Path | None) -> int:
    project = open_project(flags)
    if project.settings.setup == "auto":
        project = open_project({**flags, "setup": "local"})
    refuse(check(project.settings, project.catalog))
    return _run(project, project.settings, None, log_file)


def _serve_one(
    flags: Mapping[str, Any], wish: OneOff, log_file: Path | None, *, keep_engine: bool
) -> int:
    if flags["setup"] == "compose":
        raise SetupError(
            f"{wish.source} is in no catalog, and compose makes containers of the catalog alone.",
            hint=f"Leave out --setup and, where it is set, {MODEL_VARIABLE}; or add the model to "
            "config/models.yaml.",
        )
    project = open_project({**flags, "setup": "local"})
    # Before anything is fetched: who may not listen there will not.
    refuse(check(_preloading(project.settings, None), Catalog(devices={}, models={})))
    catalog = one_off(Terminal(), project, wish)
    settings = _preloading(project.settings, next(iter(catalog.models)))
    try:
        return _run(project, settings, catalog, log_file)
    finally:
        if not keep_engine:
            _end_engine(project)


def _preloading(settings: Settings, model: str | None) -> Settings:
    switching = settings.switching.model_copy(update={"preload": model})
    return settings.model_copy(update={"switching": switching})


def _run(
    project: Project, settings: Settings, catalog: Catalog | None, log_file: Path | None
) -> int:
    # Relative paths of the catalog start at the root.
    os.chdir(project.root)
    # It loads the whole gateway, which no other command needs.
    from llm_backend.server import run  # noqa: PLC0415  # costs a second

    return run(settings, catalog=catalog, log_path=log_file)


def _end_engine(project: Project) -> None:
    """End the engine that our gateway has left, unless another gateway has taken it over."""
    with suppress(AlreadyRunning), gateway_lock(project.lock_dir):
        sweep(project)
        # A gateway that was killed could not take its record back.
        (project.state_dir / "gateway.json").unlink(missing_ok=True)


def _reload(params: Mapping[str, Any], flags: Mapping[str, Any], *, has_model: bool) -> int:
    project = open_project(flags)
    left_out = {"reload", "keep_engine", *(() if has_model else OF_ONE_MODEL)}
    arguments = [
        part
        for name, value in params.items()
        if value is not None and name not in left_out
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    if not has_model:
        return serve_and_reload(Terminal(), project, arguments)
    try:
        return serve_and_reload(Terminal(), project, [*arguments, "--keep-engine"])
    finally:
        _end_engine(project)
