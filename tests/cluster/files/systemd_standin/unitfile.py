"""Unit files: where they are, what they say, and what their words mean."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ETC = Path("/etc/systemd/system")
SEARCH = (ETC, *(Path(p) for p in ("/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")))
RUN = Path("/run/systemd-standin")
LOADED = RUN / "loaded"
SUFFIXES = (".service", ".target", ".timer", ".socket", ".mount", ".path", ".slice", ".scope", ".device", ".swap")
NEVER_RESET = {
    "After",
    "Before",
    "Requires",
    "Wants",
    "BindsTo",
    "PartOf",
    "Requisite",
}  # no way back in systemd either
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1, "sec": 1, "": 1, "m": 60, "min": 60, "h": 3600, "hr": 3600, "d": 86400}

Sections = dict[str, dict[str, list[str]]]


@dataclass(frozen=True)
class Command:
    """One Exec line: `ignored` is the prefix `-`, `literal` is `:`."""

    words: tuple[str, ...]
    ignored: bool
    literal: bool


@dataclass(frozen=True)
class Unit:
    """A unit as it was when it was loaded."""

    name: str
    load_state: str
    fragment: str
    dropins: tuple[str, ...]
    sections: Sections

    def all(self, section: str, key: str) -> list[str]:
        return self.sections.get(section, {}).get(key, [])

    def get(self, section: str, key: str, default: str = "") -> str:
        return (self.all(section, key) or [default])[-1]

    def words(self, section: str, *keys: str) -> list[str]:
        return [word for key in keys for value in self.all(section, key) for word in value.split()]

    def flag(self, section: str, key: str) -> bool:
        return self.get(section, key).lower() in {"yes", "true", "on", "1"}

    def commands(self, key: str) -> list[Command]:
        return [command(value) for value in self.all("Service", key)]


def full_name(name: str) -> str:
    return name if name.endswith(SUFFIXES) else f"{name}.service"


def load(name: str) -> Unit:
    """Return a unit as it was when it was first asked for since the last daemon-reload, as systemd does."""
    kept = LOADED / f"{name}.json"
    if kept.exists():
        fields = json.loads(kept.read_text())
        return Unit(**{**fields, "dropins": tuple(fields["dropins"])})
    unit = read(name)
    if unit.load_state == "loaded":
        LOADED.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(asdict(unit)))
    return unit


def is_stale(unit: Unit) -> bool:
    """Say whether its files changed since it was loaded."""
    kept = LOADED / f"{unit.name}.json"
    return kept.exists() and asdict(read(unit.name)) != asdict(unit)


def read(name: str) -> Unit:
    fragment = find(name)
    if fragment is None:
        return Unit(name, "not-found", "", (), {})
    if fragment.resolve() == Path("/dev/null") or (fragment.is_file() and fragment.stat().st_size == 0):
        return Unit(name, "masked", str(fragment), (), {})
    sections: Sections = {}
    dropins = find_dropins(name)
    for path in (fragment, *dropins):
        _parse(path.read_text(), _specifiers(name), sections)
    return Unit(name, "loaded", str(fragment), tuple(map(str, dropins)), sections)


def template_of(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return f"{stem.partition('@')[0]}@.{suffix}" if "@" in stem else name


def find(name: str) -> Path | None:
    candidates = [directory / one for one in dict.fromkeys((name, template_of(name))) for directory in SEARCH]
    return next((path for path in candidates if path.exists() or path.is_symlink()), None)


def find_dropins(name: str) -> list[Path]:
    found: dict[str, Path] = {}
    for directory in reversed(SEARCH):
        for one in dict.fromkeys((template_of(name), name)):
            found |= {path.name: path for path in sorted((directory / f"{one}.d").glob("*.conf"))}
    return [found[key] for key in sorted(found)]


def linked(name: str, kind: str) -> list[str]:
    """Return what `NAME.wants/` or `NAME.requires/` holds; vendors' targets are taken as reached, so only /etc's."""
    return sorted(path.name for path in (ETC / f"{name}.{kind}").glob("*"))


def _specifiers(name: str) -> dict[str, str]:
    stem = name.rpartition(".")[0]
    prefix, _, instance = stem.partition("@")
    known = {"n": name, "N": stem, "p": prefix, "P": prefix, "i": instance, "I": instance, "%": "%"}
    host = socket.gethostname()
    return known | {
        "H": host,
        "l": host.partition(".")[0],
        "t": "/run",
        "S": "/var/lib",
        "C": "/var/cache",
        "L": "/var/log",
    }


def _parse(text: str, specifiers: Mapping[str, str], sections: Sections) -> None:
    section = ""
    for line in _logical_lines(text):
        if line.startswith("["):
            section = line.strip("[]")
            continue
        key, equals, value = line.partition("=")
        if not equals:
            continue
        key, value = key.strip(), value.strip()
        values = sections.setdefault(section, {}).setdefault(key, [])
        if value:
            values.append(re.sub("%(.)", lambda m: specifiers.get(m[1], m[0]), value))
        elif key not in NEVER_RESET:
            values.clear()


def _logical_lines(text: str) -> Iterable[str]:
    kept = ""
    for line in text.splitlines():
        if line.lstrip().startswith(("#", ";")) or not (kept or line.strip()):
            continue
        if line.endswith("\\"):
            kept += line[:-1] + " "
            continue
        yield (kept + line).strip()
        kept = ""
    if kept:
        yield kept.strip()


def command(value: str) -> Command:
    prefix = re.match(r"[-+!:@]*", value)
    marks = prefix[0] if prefix else ""
    words = shlex.split(value[len(marks) :])
    if "@" in marks and len(words) > 1:
        del words[1]  # another argv[0]; nothing here looks at it
    return Command(tuple(words), "-" in marks, ":" in marks)


def expand(line: Command, env: Mapping[str, str]) -> list[str]:
    """Put variables into a command: `$NAME` as a word of its own is split, `${NAME}` is not."""
    if line.literal:
        return list(line.words)
    result = []
    for word in line.words:
        if alone := re.fullmatch(r"\$([A-Za-z_]\w*)", word):
            result += shlex.split(env.get(alone[1], ""))
        else:
            result.append(re.sub(r"\$(?:\$|\{(\w+)\})", lambda m: env.get(m[1], "") if m[1] else "$", word))
    return result


def environment(unit: Unit) -> dict[str, str]:
    """Return what its processes get.

    Raises:
        OSError: an EnvironmentFile without `-` cannot be read.
    """
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    for value in unit.all("Service", "Environment"):
        env |= dict(word.split("=", 1) for word in shlex.split(value) if "=" in word)
    for value in unit.all("Service", "EnvironmentFile"):
        path = Path(value.removeprefix("-"))
        if value.startswith("-") and not path.exists():
            continue
        env |= _variables(path.read_text())
    return env


def _variables(text: str) -> dict[str, str]:
    found = {}
    for line in _logical_lines(text):
        key, equals, value = line.partition("=")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1] if value[0] == "'" else re.sub(r"\\(.)", r"\1", value[1:-1])
        if equals:
            found[key.strip()] = value
    return found


def seconds(text: str, default: float | None) -> float | None:
    """Return a time span as seconds; None is for ever."""
    if not text:
        return default
    if text == "infinity":
        return None
    return sum(float(n) * UNITS[unit] for n, unit in re.findall(r"([\d.]+)\s*([a-z]*)", text))
