"""What systemctl does: starts and stops units in order, and links them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from . import state, unitfile
from .unitfile import ETC, Unit

LAUNCHER = ("/usr/bin/python3", "-I", "-S", "-c", "import sys; sys.path.insert(0, '/usr/local/lib/host-standin'); "
            "from systemd_standin.__main__ import main; main()")  # fmt: skip
CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
BOOT_TARGETS = (
    "sysinit",
    "local-fs",
    "basic",
    "network",
    "network-online",
    "timers",
    "multi-user",
    "default",
    "graphical",
)


def complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def is_vendors_target(unit: Unit) -> bool:
    """Say whether it is a target that this machine's systemd brings: taken as reached."""
    return unit.name.endswith(".target") and not unit.fragment.startswith(str(ETC))


def required(unit: Unit) -> list[str]:
    own = [] if is_vendors_target(unit) else unit.words("Unit", "Requires", "BindsTo")
    return [*own, *unitfile.linked(unit.name, "requires")]


def wanted(unit: Unit) -> list[str]:
    own = [] if is_vendors_target(unit) else unit.words("Unit", "Wants")
    return [*own, *unitfile.linked(unit.name, "wants")]


def transaction(names: Iterable[str]) -> dict[str, Unit]:
    """Return what has to be started for some units: all that they require or want, and that is not up."""
    found: dict[str, Unit] = {}
    todo = list(names)
    while todo:
        name = todo.pop(0)
        if name in found or (state.read(name).active == "active" and not name.endswith(".target")):
            continue
        unit = found[name] = unitfile.load(name)
        todo += required(unit) + wanted(unit)
    return found


def conditions_hold(unit: Unit) -> bool:
    """Check the conditions on paths; all others count as met."""
    checks: dict[str, Callable[[Path], bool]] = {
        "ConditionPathExists": Path.exists,
        "ConditionPathIsDirectory": Path.is_dir,
        "ConditionFileIsExecutable": lambda path: os.access(path, os.X_OK),
        "ConditionFileNotEmpty": lambda path: path.is_file() and path.stat().st_size > 0,
        "ConditionDirectoryNotEmpty": lambda path: path.is_dir() and any(path.iterdir()),
    }
    return all(
        check(Path(value.removeprefix("!"))) != value.startswith("!")
        for key, check in checks.items()
        for value in unit.all("Unit", key)
    )


class Starting:
    """Units being started: each as soon as all that it comes after are done."""

    def __init__(self, names: Iterable[str]) -> None:
        self.asked = tuple(names)
        self.units = transaction(self.asked)
        self.results: dict[str, bool] = {}
        self.reports: dict[int, str] = {}
        self.after = {name: self._before(name) for name in self.units}

    def _before(self, name: str) -> set[str]:
        own = set(self.units[name].words("Unit", "After"))
        reverse = {other for other, unit in self.units.items() if name in unit.words("Unit", "Before")}
        if name.endswith(".target"):  # a target comes after what it pulls in, unless that says otherwise
            pulled = set(required(self.units[name]) + wanted(self.units[name]))
            reverse |= {one for one in pulled & set(self.units) if self._has_defaults(one)}
        return (own | reverse) & set(self.units) - {name}

    def _has_defaults(self, name: str) -> bool:
        unit = self.units[name]
        return unit.get("Unit", "DefaultDependencies", "yes") != "no" and not name.endswith(".target")

    def run(self) -> bool:
        """Start them all; whether those that were asked for came up."""
        while len(self.results) < len(self.units):
            ready = [name for name in self.units if name not in self.results and self._is_free(name)]
            for name in ready:
                self._start(name)
            if self.reports:
                self._collect()
            elif not ready:  # a cycle: systemd drops a job, we drop the order
                self._start(next(name for name in self.units if name not in self.results))
        return all(self.results.get(name, True) for name in self.asked)

    def _is_free(self, name: str) -> bool:
        return name not in self.reports.values() and self.after[name] <= set(self.results)

    def _start(self, name: str) -> None:
        unit = self.units[name]
        if any(self.results.get(one) is False for one in required(unit)):
            complain(f"A dependency job for {name} failed. See 'journalctl -xe' for details.")
            self.results[name] = False
        elif unit.load_state != "loaded" and not is_vendors_target(unit):
            if name in self.asked:
                why = "is masked." if unit.load_state == "masked" else "not found."
                complain(f"Failed to start {name}: Unit {name} {why}")
            self.results[name] = False
        elif not name.endswith(".service"):
            sub = {"target": "active", "timer": "waiting"}.get(name.rpartition(".")[2], "listening")
            state.write(name, state.State("active", sub))
            self.results[name] = True
        elif not conditions_hold(unit):
            with state.log(name).open("a") as log:
                log.write(f"systemd-standin: {name}: a condition does not hold: skipped\n")
            self.results[name] = True
        else:
            self._start_service(unit)

    def _start_service(self, unit: Unit) -> None:
        if unitfile.is_stale(unit):
            complain(f"Warning: The unit file of {unit.name} changed on disk. Run 'systemctl daemon-reload'.")
        lock = state.take(unit.name)
        if lock is None:
            self.results[unit.name] = hurry(unit.name)
            return
        read, write = os.pipe2(os.O_CLOEXEC)
        subprocess.Popen(
            [*LAUNCHER, "supervise", unit.name, str(write)], pass_fds=(lock, write), env=CLEAN, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        ).returncode = 0  # fmt: skip  # it outlives us
        os.close(lock)
        os.close(write)
        self.reports[read] = unit.name

    def _collect(self) -> None:
        for report in select.select(list(self.reports), [], [])[0]:
            name = self.reports.pop(report)
            self.results[name] = os.read(report, 16) == b"done"
            os.close(report)
            if not self.results[name] and name in self.asked:
                complain(
                    f"Job for {name} failed because the control process exited with error code.\n"
                    f'See "systemctl status {name}" and "journalctl -xe -u {name}" for details.'
                )


def hurry(name: str) -> bool:
    """Let a unit that waits to be started again start now; wait for one that is being started."""
    if state.read(name).sub == "auto-restart":
        signal_supervisor(name, signal.SIGUSR1)
    while (now := state.read(name)).active in {"activating", "deactivating"}:
        time.sleep(0.05)
    return now.active == "active" or now.result == "success"


def signal_supervisor(name: str, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if supervisor := state.read(name).supervisor:
            os.kill(supervisor, number)


def dependants(name: str) -> list[str]:
    """Return what runs and goes down with a unit."""
    up = [other for other in state.known() if other != name and state.read(other).active in {"active", "activating"}]
    keys = ("Requires", "BindsTo", "PartOf")
    return [other for other in up if name in unitfile.load(other).words("Unit", *keys)]


def stop(name: str) -> list[str]:
    """End a unit and what depends on it; return what was ended, the unit last."""
    ended = [one for other in dependants(name) for one in stop(other)]
    if not name.endswith(".service"):
        state.write(name, state.State())
        return ended
    while state.is_supervised(name):
        signal_supervisor(name, signal.SIGTERM)
        time.sleep(0.02)
    if state.read(name).active == "failed" and state.read(name).result == "resources":
        state.write(name, state.State())
    return [*ended, name]


def restart(names: list[str]) -> bool:
    ended = [one for name in names for one in stop(name)]
    return Starting(dict.fromkeys((*names, *ended))).run()


def reload(name: str) -> bool:
    unit, now = unitfile.load(name), state.read(name)
    lines = unit.commands("ExecReload")
    if not lines or now.active != "active":
        complain(f"Failed to reload {name}: Job type reload is not applicable for unit {name}.")
        return False
    env = unitfile.environment(unit) | {"MAINPID": str(now.main_pid)}
    with state.log(name).open("a") as log:
        done = [
            subprocess.run(unitfile.expand(line, env), env=env, stdout=log, stderr=log, check=False) for line in lines
        ]
    return all(one.returncode == 0 or line.ignored for one, line in zip(done, lines, strict=True))


# --- links


def install_links(unit: Unit) -> dict[Path, Path]:
    target = Path(unit.fragment)
    links = {ETC / f"{one}.wants" / unit.name: target for one in unit.words("Install", "WantedBy")}
    links |= {ETC / f"{one}.requires" / unit.name: target for one in unit.words("Install", "RequiredBy")}
    return links | {ETC / one: target for one in unit.words("Install", "Alias")}


def enable(name: str) -> bool:
    unit = unitfile.read(name)
    if unit.load_state != "loaded":
        why = "is masked." if unit.load_state == "masked" else "does not exist."
        complain(f"Failed to enable unit: Unit file {name} {why}")
        return False
    for link, target in install_links(unit).items():
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
            complain(f"Created symlink {link} → {target}.")
    return all(enable(unitfile.full_name(one)) for one in unit.words("Install", "Also"))


def disable(name: str) -> bool:
    if unitfile.find(name) is None:
        complain(f"Failed to disable unit: Unit file {name} does not exist.")
        return False
    for link in [*ETC.glob(f"*.wants/{name}"), *ETC.glob(f"*.requires/{name}")]:
        link.unlink()
        complain(f"Removed {link}.")
    for one in unitfile.read(name).words("Install", "Alias"):
        (ETC / one).unlink(missing_ok=True)
    return True


def mask(name: str) -> bool:
    link = ETC / name
    if link.exists() and not link.is_symlink():
        complain(f"Failed to mask unit: File {link} already exists.")
        return False
    link.unlink(missing_ok=True)
    link.symlink_to("/dev/null")
    return True


def unmask(name: str) -> bool:
    link = ETC / name
    if link.is_symlink() and str(link.readlink()) == "/dev/null":
        link.unlink()
    return True


def file_state(name: str) -> str:
    unit = unitfile.read(name)
    if unit.load_state != "loaded":
        return "masked" if unit.load_state == "masked" else "not-found"
    if [*ETC.glob(f"*.wants/{name}"), *ETC.glob(f"*.requires/{name}")]:
        return "enabled"
    return "disabled" if "Install" in unit.sections else "static"


def forget() -> None:
    """Do what daemon-reload does."""
    for path in unitfile.LOADED.glob("*.json"):
        path.unlink(missing_ok=True)


def boot() -> bool:
    """Start all that is enabled."""
    names = [one for target in BOOT_TARGETS for one in unitfile.linked(f"{target}.target", "wants")]
    return Starting(dict.fromkeys((*names, "multi-user.target"))).run()
