"""A device without hardware: NVML as a shared library, built here, and the directory it reads."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Literal

SOURCE = Path(__file__).with_name("nvml.c")
DEVICE_VARIABLE = "FAKE_NVML_DIR"


def build(folder: Path) -> Path:
    """Build the library under the name that its users load; return the folder for the loader."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libnvidia-ml.so.1"
    flags = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC")
    subprocess.run(["cc", *flags, "-o", str(library), str(SOURCE)], check=True, timeout=60)
    return folder


class FakeDevice:
    """The device, as a test changes it; `nvml.c` says what each file means."""

    def __init__(self, folder: Path, total_mib: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._write("total", total_mib)

    def environment(self, library: Path) -> dict[str, str]:
        """What a program needs to find this device."""
        known = os.environ.get("LD_LIBRARY_PATH")
        path = f"{library}{os.pathsep}{known}" if known else str(library)
        return {"LD_LIBRARY_PATH": path, DEVICE_VARIABLE: str(self.folder)}

    def hold(self, pid: int, mib: int) -> None:
        """Let a process hold memory, as long as it lives."""
        self._write(str(pid), mib)

    def let_go(self, pid: int) -> None:
        """Give back what a process holds."""
        (self.folder / str(pid)).unlink()

    def reserve(self, mib: int) -> None:
        """Put memory in use without anybody who is named for it."""
        self._write("reserved", mib)

    def linger(self, ms: int | Literal["never"] = 0) -> None:
        """Give memory back so late after its holder's end, or never."""
        self._write("linger_ms", ms)

    def hide_processes(self) -> None:
        """Show no processes from now on."""
        self._write("no_processes", 1)

    def hide_process_memory(self) -> None:
        """Show processes without what they hold."""
        self._write("no_process_memory", 1)

    def holders(self) -> set[int]:
        """Who has said that it holds memory, living or not."""
        return {int(path.name) for path in self.folder.iterdir() if path.name.isdigit()}

    def _write(self, name: str, value: object) -> None:
        # Whole or not at all: the library reads while we write.
        draft = self.folder / f".{name}"
        draft.write_text(f"{value}\n")
        draft.replace(self.folder / name)


def holding(folder: Path, mib: int, *argv: str) -> list[str]:
    """Return a command whose process holds memory of the device in `folder`."""
    return ["sh", "-c", 'echo "$1" >"$0/$$" && shift && exec "$@"', str(folder), str(mib), *argv]
