"""One process per running service: starts it, watches it, starts it again, and ends all that belongs to it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from . import state, unitfile
from .unitfile import Command, Unit

PR_SET_CHILD_SUBREAPER = 36
CLEAN_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE}
EXEC_FAILED = 203
DEFAULT_TIMEOUT = 90.0


def tracking_root() -> Path:
    """Return the cgroup hierarchy that says which process is whose."""
    top = Path("/sys/fs/cgroup")
    found = [top / "unified", top, top / "systemd", top / "pids"]
    return next(path for path in found if (path / "cgroup.procs").exists())


class Supervisor:
    """The life of one service."""

    def __init__(self, unit: Unit, report: int) -> None:
        self.unit = unit
        self.report: int | None = report
        self.state = state.State(supervisor=os.getpid())
        self.group = tracking_root() / "system.slice" / unit.name
        self.group.mkdir(parents=True, exist_ok=True)
        self.type = unit.get("Service", "Type", "simple")
        self.stopping = self.hurry = self.ready = False
        self.main: int | None = None
        self.ended: dict[int, int] = {}
        self.starts: list[float] = []
        self.env: dict[str, str] = {}
        self.log = os.open(state.log(unit.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._prepare()

    def _prepare(self) -> None:
        (tracking_root() / "init.scope" / "cgroup.procs").write_text("0")  # we are of no unit, whoever started us
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what forks twice comes back to us
        path = state.directory(self.unit.name) / "notify"
        path.unlink(missing_ok=True)
        self.notify.bind(str(path))
        path.chmod(0o666)
        self.wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))
        signal.signal(signal.SIGUSR1, lambda *_: setattr(self, "hurry", True))

    # --- events

    def wait(self, until: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until something holds; False if it does not in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._reap()
            if until():
                return True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            readable = select.select([self.wake, self.notify.fileno()], [], [], left)[0]
            if self.wake in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake, 4096)
            if self.notify.fileno() in readable:
                self._hear(self.notify.recv(65536).decode("utf-8", "replace"))

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self.ended[ended[0]] = os.waitstatus_to_exitcode(ended[1])

    def _hear(self, message: str) -> None:
        for line in message.splitlines():
            key, _, value = line.partition("=")
            if key == "READY":
                self.ready = True
            elif key == "MAINPID" and value.isdigit():
                self.main = int(value)

    def say(self, text: str) -> None:
        os.write(self.log, f"systemd-standin: {self.unit.name}: {text}\n".encode())

    def set(self, active: str, sub: str) -> None:
        self.state.active, self.state.sub, self.state.main_pid = active, sub, self.main or 0
        state.write(self.unit.name, self.state)

    def tell(self, word: str) -> None:
        """Tell the one that started us how that went; once."""
        if self.report is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.report, word.encode())
            os.close(self.report)
            self.report = None

    # --- processes

    def spawn(self, line: Command) -> int | None:
        """Start a program in the unit's group; None if it cannot be started."""
        procs, extra = str(self.group / "cgroup.procs"), {"MAINPID": str(self.main)} if self.main else {}
        env = self.env | extra
        words = unitfile.expand(line, env)
        user = self.unit.get("Service", "User") or None
        where = self.unit.get("Service", "WorkingDirectory", "/").removeprefix("-").replace("~", "/root")

        def enter() -> None:
            Path(procs).write_text("0")

        try:
            child = subprocess.Popen(
                words, env=env, cwd=where, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, user=user,
                start_new_session=True, preexec_fn=enter,  # noqa: PLW1509 - there are no threads here
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError, LookupError) as error:
            self.say(f"cannot start {words[:1]}: {error}")
            return None
        child.returncode = 0  # we reap it ourselves
        return child.pid

    def finish(self, line: Command, timeout: float | None) -> bool:
        """Run a program to its end; whether that went well."""
        pid = self.spawn(line)
        if pid is None:
            if not line.ignored:
                self.state.result, self.state.exit_status = "exit-code", EXEC_FAILED
            return line.ignored
        if self.type == "oneshot":
            self.state.main_pid = pid
        if not self.wait(lambda: pid in self.ended or (self.stopping and self.state.active == "activating"), timeout):
            self.state.result = "timeout"
            return False
        if pid not in self.ended:
            return False
        before = self.state.result
        good = self.judge(self.ended.pop(pid))
        if line.ignored:
            self.state.result = before
        return good or line.ignored

    def judge(self, status: int) -> bool:
        """Note how a process ended; whether that counts as success."""
        self.state.exit_status = abs(status)
        allowed = self.unit.words("Service", "SuccessExitStatus")
        if status == 0 or (status > 0 and str(status) in allowed):
            return True
        if status < 0 and (-status in CLEAN_SIGNALS and self.type != "oneshot"):
            return True
        self.state.result = "signal" if status < 0 else "exit-code"
        return False

    def pids(self) -> list[int]:
        found: list[int] = []
        for path in (self.group, *self.group.rglob("*/")):
            with contextlib.suppress(OSError):
                found += map(int, (path / "cgroup.procs").read_text().split())
        return found

    def kill(self, number: int, *, everything: bool) -> None:
        for pid in self.pids() if everything else [self.main] if self.main else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # --- phases

    def timeout(self, which: str) -> float | None:
        common = self.unit.get("Service", "TimeoutSec")
        default = None if self.type == "oneshot" and which == "Start" else DEFAULT_TIMEOUT
        value = unitfile.seconds(self.unit.get("Service", f"Timeout{which}Sec", common), default)
        return value or None  # 0 is for ever

    def start(self) -> bool:
        """Bring the service up."""
        self.main, self.ready, self.state.result, self.state.exit_status = None, False, "success", 0
        self.starts.append(time.monotonic())
        try:
            self.env = unitfile.environment(self.unit)
        except OSError as error:
            self.say(f"cannot read an EnvironmentFile: {error}")
            self.state.result = "resources"
            return False
        self.env |= {
            "INVOCATION_ID": uuid.uuid4().hex,
            "NOTIFY_SOCKET": str(state.directory(self.unit.name) / "notify"),
        }
        if self.type != "notify":
            del self.env["NOTIFY_SOCKET"]
        self._directories()
        self.set("activating", "start-pre")
        timeout = self.timeout("Start")
        return (
            all(self.finish(line, timeout) for line in self.unit.commands("ExecStartPre"))
            and self._start_main(timeout)
            and all(self.finish(line, timeout) for line in self.unit.commands("ExecStartPost"))
        )

    def _directories(self) -> None:
        for key, top in (("RuntimeDirectory", "/run"), ("StateDirectory", "/var/lib"), ("LogsDirectory", "/var/log")):
            for word in self.unit.words("Service", key):
                Path(top, word).mkdir(parents=True, exist_ok=True)

    def _start_main(self, timeout: float | None) -> bool:
        self.set("activating", "start")
        lines = self.unit.commands("ExecStart")
        if self.type == "oneshot":
            return all(self.finish(line, timeout) for line in lines)
        if self.type == "forking":
            return self.finish(lines[0], timeout) and self._find_main(timeout)
        self.main = self.spawn(lines[0])
        if self.main is None:
            self.state.result, self.state.exit_status = "exit-code", EXEC_FAILED
            return False
        if self.type != "notify":
            return True
        if not self.wait(lambda: self.ready or self.is_over() or self.stopping, timeout):
            self.say("did not say that it is ready in time")
            self.state.result = "timeout"
        elif not self.ready and not self.stopping:
            self.say("ended before it was ready")
            self.state.result = "protocol"
        return self.ready

    def _find_main(self, timeout: float | None) -> bool:
        file = self.unit.get("Service", "PIDFile")
        if file and not self.wait(Path(file).exists, min(timeout or DEFAULT_TIMEOUT, DEFAULT_TIMEOUT)):
            self.state.result = "protocol"
            return False
        self.main = int(Path(file).read_text()) if file else min(self.pids(), default=None)
        return self.main is not None

    def is_over(self) -> bool:
        """Say whether the main process ended, which may not be our child."""
        if self.main is None or self.main in self.ended:
            return True
        return not Path(f"/proc/{self.main}").exists()

    def stay(self) -> None:
        """Wait until it ends or has to."""
        if self.type == "oneshot":
            self.set("active", "exited")
            self.wait(lambda: self.stopping, None)
            return
        self.set("active", "running")
        while not self.wait(lambda: self.stopping or self.is_over(), 1.0):
            pass  # a main process that is not our child gives no signal
        if self.main in self.ended and not self.stopping:
            self.judge(self.ended.pop(self.main))

    def down(self, *, was_up: bool) -> None:
        """End what is left of it."""
        self.set("deactivating", "stop")
        timeout = self.timeout("Stop")
        if was_up and self.stopping:
            for line in self.unit.commands("ExecStop"):
                self.finish(line, timeout)
        mode = self.unit.get("Service", "KillMode", "control-group")
        number = signal.Signals[self.unit.get("Service", "KillSignal", "SIGTERM")]
        everything = mode == "control-group"
        if mode != "none":
            self.kill(number, everything=everything)
            gone = (lambda: not self.pids()) if everything else self.is_over
            if not self._wait_gone(gone, timeout):
                self.say(f"ignored {number.name}: killed")
                self.state.result = "timeout"
            self.kill(signal.SIGKILL, everything=mode in {"control-group", "mixed"})
            self._wait_gone(gone, DEFAULT_TIMEOUT)
        for line in self.unit.commands("ExecStopPost"):
            self.finish(line, timeout)
        self.main = None
        self.ended.clear()

    def _wait_gone(self, gone: Callable[[], bool], timeout: float | None) -> bool:
        deadline = time.monotonic() + (timeout or DEFAULT_TIMEOUT)
        while not self.wait(gone, 0.05):
            if time.monotonic() > deadline:
                return False
        return True

    def restarts(self) -> bool:
        """Say whether systemd would start it again."""
        policy, clean = self.unit.get("Service", "Restart", "no"), self.state.result == "success"
        wanted = {
            "always": True,
            "on-failure": not clean,
            "on-success": clean,
            "on-abnormal": self.state.result in {"signal", "timeout"},
            "on-abort": self.state.result == "signal",
        }.get(policy, False)
        prevented = str(self.state.exit_status) in self.unit.words("Service", "RestartPreventExitStatus")
        return wanted and not self.stopping and not prevented

    def is_too_often(self) -> bool:
        keys = ("StartLimitIntervalSec", "StartLimitInterval")
        texts = [self.unit.get(section, key) for section in ("Unit", "Service") for key in keys]
        interval = unitfile.seconds(next(filter(None, texts), "10"), None)
        burst = int(self.unit.get("Unit", "StartLimitBurst") or self.unit.get("Service", "StartLimitBurst") or 5)
        if not interval:
            return False
        return len([moment for moment in self.starts if moment > time.monotonic() - interval]) >= burst

    def run(self) -> None:
        """Live until stopped or over."""
        while True:
            up = self.start()
            self.tell("done" if up or self.type == "simple" else "failed")
            stays = self.type != "oneshot" or self.unit.flag("Service", "RemainAfterExit")
            if up and stays:
                self.stay()
            self.down(was_up=up)
            if not self.restarts():
                break
            if self.is_too_often():
                self.say("start request repeated too quickly")
                self.state.result = "start-limit-hit"
                break
            self.state.restarts += 1
            self.set("activating", "auto-restart")
            self.hurry = False
            delay = unitfile.seconds(self.unit.get("Service", "RestartSec"), 0.1)
            self.wait(lambda: self.stopping or self.hurry, delay)
            if self.stopping:
                break
        failed = self.state.result != "success"
        self.set(*(("failed", "failed") if failed else ("inactive", "dead")))
        with contextlib.suppress(OSError):
            self.group.rmdir()  # with KillMode=process some may live on


def main(name: str, report: int) -> None:
    """Be the supervisor of a unit; what goes wrong in here is in the unit's log."""
    supervisor = Supervisor(unitfile.load(name), report)
    os.dup2(supervisor.log, sys.stderr.fileno())
    supervisor.run()
