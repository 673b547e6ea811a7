"""The supervisor of one engine: a small program that outlives the gateway that started it.

Run as `python -I -S launcher.py SPEC`, where SPEC is a JSON object:

| key | meaning |
|---|---|
| `record` | what is known of the engine; kept as a file with `pid`, `code` and more added |
| `record_path` | that file |
| `lock_path` | the kernel lock of the engine's exclusivity group |
| `log_path` | the file that standard output and standard error append to |
| `log_limit` | its size in bytes at which it moves to `.1` |
| `argv`, `cwd` | the engine's command line and working directory |
| `report_fd` | a pipe for one JSON object: `{"pid": ...}`, or `{"error": ..., "status": ...}` |

SIGTERM, SIGINT and SIGHUP stop the engine: SIGTERM to it, SIGKILL once `record.stop_s` seconds
have passed. SIGQUIT kills it at once. Nothing that the engine started outlives it.

SIGUSR1 lets go of the lock, SIGUSR2 takes it again. The record then counts one more in `answers`,
`rests` says whether the lock was let go, and `refusal` why it could not be taken.

Only the standard library is imported, and little of it: one launcher runs for each engine.
"""

# ruff: noqa: PTH105, PTH123, PTH208 - pathlib takes as long to import as all the rest

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # importing typing takes as long as the rest of the start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LOCK_HELD = 75
"""Status of a launcher that another engine of the group kept out (EX_TEMPFAIL)."""
CANNOT_RUN = 127
"""Status of a launcher whose engine could not be executed."""
LOG_CHECK_S = 2.0
"""How often the log's size is looked at: it exceeds its limit by what an engine writes in this
time, and never by more."""
LOCK_WAIT_S = 0.5
"""How long a held lock is tried again: whoever only looks at a lock holds it for an instant."""

_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WATCHED = (
    *_STOP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
    signal.SIGALRM,
)
_RESET = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGINT, signal.SIGQUIT)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Refusal(Exception):
    """The engine cannot be started."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Launcher:
    """One engine from its lock to its last descendant."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.record = {**spec["record"], "pid": os.getpid(), "rests": False, "answers": 0}
        self.lock = -1
        self.is_saved = True
        self.engine = 0
        self.deadline = 0.0

    def run(self) -> int:
        """Start the engine, wait for its end, and return its exit status."""
        try:
            self.lock = os.open(
                self.spec["lock_path"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666
            )
            self.take_lock()
            self.check_gateway()
            self.save()
            self.start()
        except (OSError, Refusal) as error:
            status = getattr(error, "status", CANNOT_RUN)
            print(error, file=sys.stderr, flush=True)
            self.report({"error": str(error), "status": status})
            return status
        self.report({"pid": os.getpid()})
        self.watch()
        return self.finish()

    def take_lock(self) -> None:
        """Take the group's lock; what the file says then names its holder."""
        deadline = time.monotonic() + LOCK_WAIT_S
        while not try_lock(self.lock):
            if time.monotonic() > deadline:
                holder = os.pread(self.lock, 4096, 0).decode(errors="replace")
                raise Refusal(LOCK_HELD, self.describe(holder))
            time.sleep(0.02)
        what = f"the engine of {self.record['model']}"
        note = {"pid": os.getpid(), "what": what, "instance": self.record["instance"]}
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, json.dumps(note).encode(), 0)

    def check_gateway(self) -> None:
        """Refuse to start an engine that nobody waits for.

        A gateway killed before this line leaves no engine, one killed after it leaves a launcher
        that runs and can be found. Without the line, the next gateway could look around while
        this program was not executed yet, and see nothing.
        """
        pipe = select.poll()
        pipe.register(self.spec["report_fd"], 0)
        if pipe.poll(0):
            raise Refusal(CANNOT_RUN, "the gateway left before its engine was started")

    def describe(self, note: str) -> str:
        """Say who holds the lock."""
        try:
            holder = json.loads(note)
            who = f"{holder['what']} (pid {holder['pid']})"
        except (ValueError, LookupError, TypeError):
            who = "another process"
        return f"the lock of group {self.record['group']} is held by {who}"

    def start(self) -> None:
        """Fork and execute the engine; it inherits the lock."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        # A SIGCHLD that nobody handles is dropped on macOS, even while it is blocked.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        control_process(_PR_SET_CHILD_SUBREAPER, 1)
        # Both ends close at the exec: the end of the pipe without a word is the good news.
        read_end, write_end = os.pipe()
        launcher = os.getpid()
        self.engine = os.fork()
        if not self.engine:
            self.become_engine(launcher, write_end)
        os.close(write_end)
        with open(read_end, "rb") as pipe:
            failure = pipe.read().decode(errors="replace")
        if failure:
            os.waitpid(self.engine, 0)
            self.record["code"] = CANNOT_RUN
            self.save()
            raise Refusal(CANNOT_RUN, failure)

    def become_engine(self, launcher: int, failure: int) -> None:
        """Turn this forked process into the engine; never returns."""
        try:
            os.setpgid(0, 0)
            control_process(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:  # it died before the line above
                os._exit(CANNOT_RUN)
            for number in _RESET:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.set_inheritable(self.lock, True)
            if self.spec["cwd"]:
                os.chdir(self.spec["cwd"])
            os.execvp(self.spec["argv"][0], self.spec["argv"])  # noqa: S606 - the purpose
        except OSError as error:
            where = f" in {self.spec['cwd']}" if self.spec["cwd"] else ""
            text = f"{self.spec['argv'][0]} cannot be run{where}: {error.strerror}"
            os.write(failure, text.encode())
        finally:
            os._exit(CANNOT_RUN)

    def watch(self) -> None:
        """Serve signals and the clock until the engine's main process has ended."""
        while not self.reap():
            self.set_alarm()
            number = signal.sigwait(_WATCHED)
            if number in _STOP:
                self.begin_stop()
            elif number == signal.SIGQUIT or self.is_overdue():
                self.kill()
            elif number == signal.SIGALRM:
                self.look_after_files()
            elif number == signal.SIGUSR1:
                self.rest()
            elif number == signal.SIGUSR2:
                self.rouse()

    def look_after_files(self) -> None:
        """Bound the log; write the record if that was not possible before."""
        bound_log(self.spec["log_path"], self.spec["log_limit"])
        if not self.is_saved:
            self.save()

    def reap(self) -> bool:
        """Collect ended children; return whether the engine is one of them."""
        pid = -1
        while pid and "code" not in self.record:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == self.engine:
                self.record["code"] = os.waitstatus_to_exitcode(status)
        return "code" in self.record

    def set_alarm(self) -> None:
        """Wake `watch` at the deadline of a stop, or when the log is due for a look."""
        is_due = self.deadline and not self.record.get("killed")
        left = self.deadline - time.monotonic() if is_due else LOG_CHECK_S
        signal.setitimer(signal.ITIMER_REAL, min(max(left, 0.001), LOG_CHECK_S))

    def is_overdue(self) -> bool:
        """Return whether the engine was asked to end and has not, in its time."""
        return 0 < self.deadline <= time.monotonic()

    def begin_stop(self) -> None:
        """Ask the engine to end. Only the first call counts."""
        if not self.deadline:
            self.deadline = time.monotonic() + self.record["stop_s"]
            self.record["stopping"] = True
            self.save()
            os.kill(self.engine, signal.SIGTERM)

    def kill(self) -> None:
        """End the engine without asking; `finish` sees to its descendants."""
        if not self.record.get("killed"):
            self.record["stopping"] = self.record["killed"] = True
            self.save()
        os.kill(self.engine, signal.SIGKILL)

    def rest(self) -> None:
        """Let go of the lock: the engine, which inherited it, holds it no more either.

        The record says it first: whoever finds the lock free finds no engine that seems awake.
        """
        if not self.record["rests"]:
            self.record["rests"] = True
            self.save()
            if not self.is_saved:
                self.record["rests"] = False
                self.answer("its record could not be written")
                return
            # The next holder signs the file: until then nobody has to answer for the lock.
            os.ftruncate(self.lock, 0)
            fcntl.flock(self.lock, fcntl.LOCK_UN)
        self.answer("")

    def rouse(self) -> None:
        """Take the lock again, unless another engine has it."""
        refusal = ""
        if self.record["rests"]:
            try:
                self.take_lock()
            except (OSError, Refusal) as error:
                refusal = str(error)
            else:
                self.record["rests"] = False
        self.answer(refusal)

    def answer(self, refusal: str) -> None:
        """Tell whoever waits for it that a request was dealt with."""
        self.record["answers"] += 1
        self.record["refusal"] = refusal
        self.save()

    def finish(self) -> int:
        """End all that the engine has left, then say how it ended."""
        end_children(self.engine)
        self.save()
        code: int = self.record["code"]
        return code if code >= 0 else 128 - code

    def save(self) -> None:
        """Replace the record in one step."""
        path = self.spec["record_path"]
        self.is_saved = False
        try:
            with open(path + ".tmp", "w", encoding="utf-8") as file:
                json.dump(self.record, file)
            os.replace(path + ".tmp", path)
        except OSError as error:
            if not self.engine:
                raise
            # Too late to give up: an engine that runs has to be watched and ended all the same.
            print(f"the record {path} could not be written: {error}", file=sys.stderr, flush=True)
            return
        self.is_saved = True

    def report(self, answer: dict[str, object]) -> None:
        """Answer whoever waits for the start, if they still do."""
        try:
            os.write(self.spec["report_fd"], json.dumps(answer).encode())
        except BrokenPipeError:
            print("the gateway left during the start", file=sys.stderr, flush=True)
        os.close(self.spec["report_fd"])


def try_lock(lock: int) -> bool:
    """Take an exclusive lock without waiting; return whether it is ours."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def control_process(option: int, value: int) -> None:
    """Call prctl(2), where there is one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def end_children(engine: int) -> None:
    """Kill every descendant and wait for it.

    As their subreaper, this process becomes the parent of those that lost theirs: daemons too
    are its children sooner or later, and without children it has no descendants.
    """
    while True:
        for pid in children():
            kill(os.kill, pid)
        if sys.platform != "linux":
            kill(os.killpg, engine)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def children() -> list[int]:
    """Return the processes whose parent is this one, as Linux lists them."""
    found = []
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        try:
            with open(f"/proc/{int(name)}/stat", "rb") as file:
                # The name comes second, in brackets, and may hold anything.
                state = file.read().rpartition(b")")[2].split()
        except (ValueError, OSError):
            continue
        if int(state[1]) == os.getpid():
            found.append(int(name))
    return found


def kill(by: Callable[[int, int], None], target: int) -> None:
    """Send SIGKILL with `by` to a process or a group, if it is there and ours."""
    try:
        by(target, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def bound_log(path: str, limit: int) -> None:
    """Move the log to `.1` when it has `limit` bytes.

    The engine keeps its descriptor, so the text is copied and the file emptied; lines written
    between the two are lost.
    """
    log = sys.stdout.fileno()
    if os.fstat(log).st_size < limit:
        return
    try:
        with open(path, "rb") as old, open(path + ".1", "wb") as new:
            while block := old.read(1024 * 1024):
                new.write(block)
    except OSError as error:
        print(f"the log could not be kept: {error}", file=sys.stderr, flush=True)
    os.ftruncate(log, 0)


def main() -> None:
    """Run in the background, as nobody's child: no process has to wait for the end of this."""
    if os.fork():
        os._exit(0)
    spec = json.loads(sys.argv[1])
    os.set_inheritable(spec["report_fd"], False)
    sys.exit(Launcher(spec).run())


if __name__ == "__main__":
    main()
