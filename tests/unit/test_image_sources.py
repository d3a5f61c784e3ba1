"""Package sources from a mirror; those of this machine's apt are read in tests/integration/test_image_sources.py."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.image.bases import sources
from pipeline.profile import DebBase

SECURE = "bookworm-security"


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


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        pass


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory and the URL under which a real server offers it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *words: Quiet(*words, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def offer(place: Path, suite: str) -> None:
    (place / "dists" / suite).mkdir(parents=True)
    (place / "dists" / suite / "InRelease").touch()


@pytest.mark.parametrize("slash", ["", "/", "//"])
def test_a_mirror_has_the_plain_suites(slash: str) -> None:
    """Nothing is asked for: a plan is made without the network."""
    mirror = f"http://127.0.0.1:1/debian{slash}"
    found = sources.resolve(base("bookworm", "bookworm-updates"), mirror)
    assert [(source.uri, source.suite) for source in found] == [
        ("http://127.0.0.1:1/debian", "bookworm"),
        ("http://127.0.0.1:1/debian", "bookworm-updates"),
    ]
    assert found[0].release_url == "http://127.0.0.1:1/debian/dists/bookworm/InRelease"


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (["debian-security"], "debian-security"),
        (["debian"], "debian"),
        (["debian", "debian-security"], "debian-security"),
        ([], "debian"),  # the check before the build says what was tried
    ],
)
def test_a_security_suite_is_beside_the_archive_or_in_it(
    archive: tuple[Path, str], offered: list[str], expected: str
) -> None:
    directory, url = archive
    for name in offered:
        offer(directory / name, SECURE)
    (found,) = sources.resolve(base(SECURE), f"{url}/debian")
    assert (found.uri, found.suite) == (f"{url}/{expected}", SECURE)


@pytest.mark.parametrize(
    "mirror",
    [
        "http://user:secret@mirror.example/debian",
        "https://:secret@mirror.example/debian",
        "https://secret@mirror.example/debian",
        "https://mirror.example/debian?token=secret",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(mirror: str) -> None:
    with pytest.raises(InputError, match="must not carry a password") as caught:
        sources.resolve(base("bookworm"), mirror)
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"
