"""systemctl and journalctl for hosts that are namespaces and have no systemd.

Units are really started, supervised, started again and stopped, out of their files with drop-ins, in the order that
After and Before ask for; READY over NOTIFY_SOCKET, oneshot and forking services, KillMode and time limits are honoured;
a changed file counts after daemon-reload only. A process belongs to the unit in whose cgroup it is.

Not done: sockets, mounts, paths, slices (they "start" and do nothing); timers never fire (start the service);
limits, capabilities and sandboxing (Limit*, Protect*, Private*, OOMScoreAdjust, Delegate and resource control are
ignored); StandardOutput (all goes to /var/log/journal-standin/UNIT.log, without times); conditions that are not about
paths count as met; vendors' targets count as reached; Conflicts, OnFailure, WatchdogSec, presets, --root, D-Bus.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from . import control, state, supervisor, unitfile

NOT_ACTIVE = 3
NOT_FOUND = 4
WITH_VALUE = {
    "-p", "--property", "-n", "--lines", "-o", "--output", "-s", "--signal", "-t", "--type", "--state", "-u", "--unit",
    "--since", "-S", "--job-mode", "--kill-who", "--kill-whom", "--until", "-U", "--identifier", "-g", "--grep",
}  # fmt: skip


def options(arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Split arguments into options, each with its values, and words."""
    found: dict[str, list[str]] = {}
    words: list[str] = []
    left = deque(arguments)
    while left:
        word = left.popleft()
        key, equals, value = word.partition("=")
        if word == "--":
            words += left
            break
        if word.startswith("--") and equals:
            found.setdefault(key, []).append(value)
        elif word in WITH_VALUE:
            found.setdefault(word, []).append(left.popleft() if left else "")
        elif word[:2] in WITH_VALUE and not word.startswith("--"):
            found.setdefault(word[:2], []).append(word[2:])
        elif word.startswith("-") and len(word) > 1:
            found.setdefault(word, [])
        else:
            words.append(word)
    return found, words


def out(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def last_lines(name: str, count: int | None) -> list[str]:
    path = state.LOGS / f"{name}.log"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace") as log:
        return [line.rstrip("\n") for line in deque(log, count)]


def properties(name: str) -> dict[str, str]:
    unit, now = unitfile.load(name), state.read(name)
    return {
        "Type": unit.get("Service", "Type", "simple"),
        "Restart": unit.get("Service", "Restart", "no"),
        "MainPID": str(now.main_pid if now.active != "inactive" else 0),
        "NRestarts": str(now.restarts),
        "Result": now.result,
        "ExecMainStatus": str(now.exit_status),
        "Id": name,
        "Names": name,
        "Description": unit.get("Unit", "Description", name),
        "LoadState": unit.load_state,
        "ActiveState": now.active,
        "SubState": now.sub,
        "FragmentPath": unit.fragment,
        "DropInPaths": " ".join(unit.dropins),
        "UnitFileState": {"not-found": ""}.get(control.file_state(name), control.file_state(name)),
        "NeedDaemonReload": "yes" if unitfile.is_stale(unit) else "no",
        "ActiveEnterTimestamp": time.strftime("%a %Y-%m-%d %H:%M:%S UTC", time.gmtime(now.since)) if now.since else "",
        "Requires": " ".join(unit.words("Unit", "Requires")),
        "Wants": " ".join(unit.words("Unit", "Wants")),
        "After": " ".join(unit.words("Unit", "After")),
    }


def show(names: list[str], found: dict[str, list[str]]) -> int:
    wanted = [one for key in ("-p", "--property") for value in found.get(key, []) for one in value.split(",")]
    for name in names:
        known = properties(name)
        keys = [key for key in known if key in wanted] if wanted else list(known)
        for key in keys:
            out(known[key] if "--value" in found else f"{key}={known[key]}")
    return 0


def status(names: list[str], found: dict[str, list[str]]) -> int:
    code = 0
    for name in names:
        known = properties(name)
        if known["LoadState"] == "not-found":
            control.complain(f"Unit {name} could not be found.")
            code = NOT_FOUND
            continue
        out(f"● {name} - {known['Description']}")
        out(f"     Loaded: {known['LoadState']} ({known['FragmentPath']}; {known['UnitFileState']})")
        out(f"     Active: {known['ActiveState']} ({known['SubState']}) since {known['ActiveEnterTimestamp'] or 'n/a'}")
        if known["ActiveState"] == "failed":
            out(f"     Result: {known['Result']}, status={known['ExecMainStatus']}")
        if known["MainPID"] != "0":
            out(f"   Main PID: {known['MainPID']}")
        count = int((found.get("-n") or found.get("--lines") or ["10"])[-1])
        out("\n".join(["", *last_lines(name, count)]))
        code = code or (0 if known["ActiveState"] == "active" else NOT_ACTIVE)
    return code


def is_active(names: list[str], found: dict[str, list[str]]) -> int:
    states = [state.read(name).active for name in names]
    if not {"-q", "--quiet"} & found.keys():
        out("\n".join(states))
    return 0 if "active" in states else NOT_ACTIVE


def is_failed(names: list[str], found: dict[str, list[str]]) -> int:
    states = [state.read(name).active for name in names]
    if not {"-q", "--quiet"} & found.keys():
        out("\n".join(states))
    return 0 if "failed" in states else 1


def is_enabled(names: list[str], found: dict[str, list[str]]) -> int:
    states = [control.file_state(name) for name in names]
    for name, one in zip(names, states, strict=True):
        if one == "not-found":
            control.complain(f"Failed to get unit file state for {name}: No such file or directory")
        elif not {"-q", "--quiet"} & found.keys():
            out(one)
    return 0 if {"enabled", "static"} & set(states) else 1


def start(names: list[str], found: dict[str, list[str]]) -> int:
    del found
    return 0 if control.Starting(names).run() else 1


def stop(names: list[str], found: dict[str, list[str]]) -> int:
    del found
    missing = [name for name in names if unitfile.load(name).load_state == "not-found"]
    for name in names:
        if name in missing and not state.is_supervised(name):
            control.complain(f"Failed to stop {name}: Unit {name} not loaded.")
        else:
            control.stop(name)
    return 5 if missing else 0


def restart(names: list[str], found: dict[str, list[str]]) -> int:
    del found
    return 0 if control.restart(names) else 1


def try_restart(names: list[str], found: dict[str, list[str]]) -> int:
    return restart([name for name in names if state.read(name).active in {"active", "activating"}], found)


def reload_or_restart(names: list[str], found: dict[str, list[str]]) -> int:
    can = [name for name in names if unitfile.load(name).commands("ExecReload") and state.read(name).active == "active"]
    done = all(control.reload(name) for name in can)
    return max(0 if done else 1, restart([name for name in names if name not in can], found))


def with_now(names: list[str], found: dict[str, list[str]], change: Callable[[str], bool], *, up: bool) -> int:
    changed = [change(name) for name in names]
    done = all(changed)
    control.forget()
    if done and "--now" in found:
        return start(names, found) if up else stop(names, found)
    return 0 if done else 1


def kill(names: list[str], found: dict[str, list[str]]) -> int:
    text = (found.get("-s") or found.get("--signal") or ["TERM"])[-1].removeprefix("SIG")
    for name in names:
        procs = supervisor.tracking_root() / "system.slice" / name / "cgroup.procs"
        pids = procs.read_text().split() if procs.exists() else []
        if pids:
            subprocess.run(["kill", "-s", text, *pids], check=False)
    return 0


def reset_failed(names: list[str], found: dict[str, list[str]]) -> int:
    del found
    for name in names or state.known():
        if state.read(name).active == "failed":
            state.write(name, state.State())
    return 0


def daemon_reload(names: list[str], found: dict[str, list[str]]) -> int:
    del names, found
    control.forget()
    return 0


def cat(names: list[str], found: dict[str, list[str]]) -> int:
    del found
    for name in names:
        unit = unitfile.read(name)
        if not unit.fragment:
            control.complain(f"No files found for {name}.")
            return 1
        for path in (unit.fragment, *unit.dropins):
            out(f"# {path}\n{Path(path).read_text()}")
    return 0


def list_units(names: list[str], found: dict[str, list[str]]) -> int:
    kinds = [one for key in ("-t", "--type", "--state") for value in found.get(key, []) for one in value.split(",")]
    for name in state.known():
        now = state.read(name)
        words = {now.active, now.sub, name.rpartition(".")[2]}
        if (not names or name in names) and all(kind in words for kind in kinds):
            out(f"{name} loaded {now.active} {now.sub} {unitfile.load(name).get('Unit', 'Description', name)}")
    return 0


def list_unit_files(names: list[str], found: dict[str, list[str]]) -> int:
    del found
    paths = {path.name for directory in unitfile.SEARCH for path in directory.glob("*.*") if not path.is_dir()}
    shown = [name for name in sorted(paths) if not names or name in names]
    out("\n".join(f"{name} {control.file_state(name)}" for name in shown))
    return 0 if shown else 1


def list_timers(names: list[str], found: dict[str, list[str]]) -> int:
    del names, found
    for name in state.known():
        if name.endswith(".timer") and state.read(name).active == "active":
            activates = unitfile.load(name).get("Timer", "Unit", name.removesuffix(".timer") + ".service")
            out(f"n/a n/a n/a n/a {name} {activates}")
    return 0


def is_system_running(names: list[str], found: dict[str, list[str]]) -> int:
    del names
    booted = unitfile.RUN / "booted"
    while "--wait" in found and not booted.exists():
        time.sleep(0.05)
    failed = any(state.read(name).active == "failed" for name in state.known())
    word = "starting" if not booted.exists() else "degraded" if failed else "running"
    out(word)
    return 0 if word == "running" else 1


def boot(names: list[str], found: dict[str, list[str]]) -> int:
    del names, found
    done = control.boot()
    (unitfile.RUN / "booted").touch()
    return 0 if done else 1


VERBS: dict[str, Callable[[list[str], dict[str, list[str]]], int]] = {
    "start": start, "stop": stop, "restart": restart, "try-restart": try_restart, "condrestart": try_restart,
    "reload": lambda names, _: 0 if all(control.reload(name) for name in names) else 1,
    "reload-or-restart": reload_or_restart, "kill": kill, "reset-failed": reset_failed,
    "daemon-reload": daemon_reload, "daemon-reexec": daemon_reload,
    "enable": lambda names, found: with_now(names, found, control.enable, up=True),
    "disable": lambda names, found: with_now(names, found, control.disable, up=False),
    "reenable": lambda names, found: with_now(
        names, found, lambda name: control.disable(name) and control.enable(name), up=True
    ),
    "mask": lambda names, found: with_now(names, found, control.mask, up=False),
    "unmask": lambda names, found: with_now(names, found, control.unmask, up=True),
    "is-active": is_active, "is-failed": is_failed, "is-enabled": is_enabled, "status": status, "show": show,
    "cat": cat, "list-units": list_units, "list-unit-files": list_unit_files, "list-timers": list_timers,
    "is-system-running": is_system_running, "standin-boot": boot,
}  # fmt: skip


def systemctl(arguments: list[str]) -> int:
    found, words = options(arguments)
    verb = words[0] if words else "list-units"
    if "--version" in found:
        out("systemd 252 (stand-in of the tests)")
        return 0
    if verb not in VERBS:
        control.complain(f"systemctl (stand-in of the tests): '{verb}' is not done here")
        return 1
    if "--no-block" in found:
        rest = [word for word in arguments if word != "--no-block"]
        quiet = subprocess.DEVNULL  # or our caller would wait for the end of what we print
        subprocess.Popen(
            [*control.LAUNCHER, "systemctl", *rest],
            env=control.CLEAN,
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        ).returncode = 0
        return 0
    return VERBS[verb]([unitfile.full_name(word) for word in words[1:]], found)


def journalctl(arguments: list[str]) -> int:
    found, _ = options(arguments)
    asked = [value for key in ("-u", "--unit") for value in found.get(key, [])]
    names = [unitfile.full_name(one) for one in asked] or sorted(path.stem for path in state.LOGS.glob("*.log"))
    if {"-f", "--follow"} & found.keys():
        os.execvp("tail", ["tail", "-F", *(str(state.log(name)) for name in names)])  # noqa: S606 - no shell is wanted
    text = (found.get("-n") or found.get("--lines") or ["all"])[-1]
    for name in names:
        if lines := last_lines(name, int(text) if text.isdigit() else None):
            out("\n".join(lines))
    return 0


def main() -> None:
    """Do what the first argument says."""
    program, *arguments = sys.argv[1:]
    if program == "supervise":
        supervisor.main(arguments[0], int(arguments[1]))
        return
    sys.exit(journalctl(arguments) if program == "journalctl" else systemctl(arguments))
