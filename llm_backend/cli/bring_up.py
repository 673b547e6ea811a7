"""Bringing a detached gateway up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

import llm_backend
from llm_backend.cli.control import Control, RunRecord, find_gateway
from llm_backend.cli.ports import port_holder, port_is_free
from llm_backend.cli.project import Project
from llm_backend.cli.take_down import KILL_S, POLL_S, TERM_S, end_process
from llm_backend.cli.terminal import Report
from llm_backend.config.root import ROOT_VARIABLE
from llm_backend.errors import SetupError
from llm_backend.runtimes import logfile

READY_S = 60.0
"""How long a gateway may take from its launch until it answers."""
TAIL_LINES = 15
MODEL_VARIABLE = "LLM_MODEL_ID"
"""Has `serve` serve one model that is in no catalog."""
PROGRAM = (sys.executable, "-m", "llm_backend")


def bring_up(project: Project, setup: str, report: Report) -> RunRecord:
    """Start a detached gateway and wait until it answers.

    Whatever happens before it answers, Ctrl-C included, ends it again.

    Raises:
        SetupError: it ended, or did not answer in time; with its last log lines. The exit code
            is that of the gateway.
    """
    check_port(project)
    process = _spawn(project, setup)
    try:
        record = _wait_until_live(project, process, report)
    except BaseException:
        if process.poll() is None:
            end_process(psutil.Process(process.pid), TERM_S)
            process.wait(KILL_S)
        raise
    # It outlives this program: Popen would take that for a mistake.
    process.returncode = 0
    return record


def _spawn(project: Project, setup: str) -> subprocess.Popen[bytes]:
    log, port = project.gateway_log, str(project.settings.server.port)
    with os.fdopen(logfile.open_new(log), "ab") as output:
        return subprocess.Popen(
            [*PROGRAM, "serve", "--setup", setup, "--port", port, "--log-file", str(log)],
            cwd=Path(llm_backend.__file__).parents[1],  # where -m finds this package
            env=_environment(project),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _environment(project: Project) -> dict[str, str]:
    # LLM_MODEL_ID would have it serve that model instead of the catalog.
    inherited = {name: text for name, text in os.environ.items() if name != MODEL_VARIABLE}
    return {**inherited, ROOT_VARIABLE: str(project.root)}


def _wait_until_live(
    project: Project, process: subprocess.Popen[bytes], report: Report
) -> RunRecord:
    deadline = time.monotonic() + READY_S
    report("waiting until it answers")
    while time.monotonic() < deadline:
        code = process.poll()
        if code is not None:
            raise _ended_early(project, code)
        record = find_gateway(project.state_dir)
        if record is not None and record.pid == process.pid:
            with Control(record, project.state_dir) as control:
                if control.is_live():
                    return record
        time.sleep(POLL_S)
    raise _failed(project, SetupError, f"The gateway did not answer within {READY_S:.0f} s.")


def _ended_early(project: Project, code: int) -> SetupError:
    kinds = {kind.exit_code: kind for kind in SetupError.__subclasses__()}
    kind = kinds.get(code, SetupError)
    return _failed(project, kind, f"The gateway ended at its start, with status {code}.")


def _failed(project: Project, kind: type[SetupError], message: str) -> SetupError:
    tail = logfile.tail(project.gateway_log, TAIL_LINES)
    return kind(message, hint=f"Its log: {project.gateway_log}", log_tail=tail)


def check_port(project: Project) -> None:
    """Refuse to start where another program has the port.

    Raises:
        SetupError: names the port and, where the system shows it, who has it.
    """
    host, port = project.settings.server.host, project.settings.server.port
    if port_is_free(host, port):
        return
    raise SetupError(
        f"Port {port} is taken by {port_holder(port)}.",
        hint="End that program, or type: LLM_SERVER__PORT=7001 llm-backend start",
    )
