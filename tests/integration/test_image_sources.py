"""This machine's apt sources, read by the real apt from settings that are put in place of the machine's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core import namespace
from pipeline.core.errors import DependencyError, InputError, ToolError
from pipeline.image.bases import sources
from pipeline.profile import DebBase

MS_BIND = 0x1000
DEB822 = """\
Types: deb deb-src
URIs: {uri}
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def base(*suites: str) -> DebBase:
    return DebBase.model_validate(
        {
            "kind": "deb",
            "suites": suites,
            "components": ["main"],
            "keyring": "/usr/share/keyrings/x.gpg",
            "fingerprints": ["A" * 40],
        }
    )


def resolve(place: Path, files: dict[str, str], *suites: str) -> dict[str, str]:
    """Return suite and archive that are found with these files below /etc/apt."""
    for directory in ("sources.list.d", "preferences.d", "apt.conf.d", "trusted.gpg.d", "auth.conf.d"):
        (place / directory).mkdir()
    for name, text in files.items():
        (place / name).write_text(text)

    def work() -> dict[str, str]:
        namespace.mount(str(place), Path("/etc/apt"), flags=MS_BIND)
        return {source.suite: source.uri for source in sources.resolve(base(*suites), None)}

    return namespace.run_private(work)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sources.list": "deb http://one.example/debian bookworm main\n"}, "http://one.example/debian/"),
        ({"sources.list": "deb [arch=amd64 signed-by=/x.gpg] https://one.example/d/ bookworm main\n"}, "https://one.example/d/"),
        ({"sources.list.d/x.sources": DEB822.format(uri="http://two.example/debian")}, "http://two.example/debian/"),
        (
            {
                "sources.list": "deb cdrom:[Debian GNU/Linux 12.5.0 _Bookworm_ - DVD]/ bookworm main\n"
                "# deb http://off.example/d bookworm main\n"
                "deb-src http://source.example/d bookworm main\n"
                "deb http://on.example/d bookworm main\n"
            },
            "http://on.example/d/",
        ),
        (
            {"sources.list": "deb http://tools.example/apt stable main\ndeb http://one.example/debian bookworm main\n"},
            "http://one.example/debian/",
        ),
    ],
    ids=["one line", "options", "deb822", "installed from a disc", "others"],
)  # fmt: skip
def test_what_apt_knows(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    assert resolve(tmp_path, files, "bookworm") == {"bookworm": expected}


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"sources.list": "deb http://one.example/debian trixie main\n"},
        {"sources.list.d/x.sources": "Enabled: no\n" + DEB822.format(uri="http://two.example/debian")},
    ],
    ids=["nothing", "another release", "switched off"],
)
def test_a_suite_that_apt_does_not_know(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(DependencyError, match="apt sources do not offer bookworm") as caught:
        resolve(tmp_path, files, "bookworm")
    assert "--mirror URL" in caught.value.hint


def test_every_suite_that_is_missing_is_named(tmp_path: Path) -> None:
    files = {"sources.list": "deb http://one.example/debian bookworm main\n"}
    with pytest.raises(DependencyError, match="do not offer bookworm-updates, bookworm-security"):
        resolve(tmp_path, files, "bookworm", "bookworm-updates", "bookworm-security")


def test_a_password_in_apts_sources_is_refused_and_not_repeated(tmp_path: Path) -> None:
    files = {"sources.list": "deb http://user:secret@one.example/debian bookworm main\n"}
    with pytest.raises(InputError, match="carries a password") as caught:
        resolve(tmp_path, files, "bookworm")
    assert "secret" not in caught.value.message + caught.value.hint
    assert "auth.conf" in caught.value.hint


def test_a_file_that_apt_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="asking apt for its sources") as caught:
        resolve(tmp_path, {"sources.list": "nonsense\n"}, "bookworm")
    assert "Malformed line 1 in source list /etc/apt/sources.list" in caught.value.message
