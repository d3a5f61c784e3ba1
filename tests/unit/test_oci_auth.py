"""Credentials in the files of docker and podman, and what a registry asks for them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from pipeline import oci
from pipeline.core.errors import InputError
from pipeline.oci.auth import Credentials, Scope, challenges, load_credentials


def word(user: str, password: str = "x:y") -> dict[str, str]:  # noqa: S107 - of no registry
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


AUTHS = {
    "r.site:5000": word("host"),
    "r.site:5000/team": word("team"),
    "r.site:5000/team/app": word("app"),
    "https://old.site/v2/": word("old"),
    "https://index.docker.io/v1/": word("hub"),
    "plain.site": {"username": "plain", "password": "word"},
    "token.site": {**word("", ""), "identitytoken": "long-lived"},
    "empty.site": {},
}


@pytest.mark.parametrize(
    ("host", "repository", "user"),
    [
        ("r.site:5000", "a", "host"),
        ("r.site:5000", "teams", "host"),
        ("r.site:5000", "team", "team"),
        ("r.site:5000", "team/other", "team"),
        ("r.site:5000", "team/app/part", "app"),
        ("r.site", "a", None),
        ("old.site", "a/b", "old"),
        ("docker.io", "library/alpine", "hub"),
        ("registry-1.docker.io", "library/alpine", "hub"),
        ("plain.site", "a", "plain"),
        ("empty.site", "a", None),
        ("nowhere.site", "a", None),
    ],
)
def test_whose_credentials(tmp_path: Path, host: str, repository: str, user: str | None) -> None:
    (tmp_path / "auth.json").write_text(json.dumps({"auths": AUTHS}))
    found = load_credentials(tmp_path / "auth.json", host, repository)
    assert (found.username if found else None) == user
    if found and user != "plain":
        assert found.password == "x:y"


def test_an_identity_token(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": AUTHS}))
    found = load_credentials(tmp_path / "config.json", "token.site", "a")
    assert found == Credentials(identity_token="long-lived")
    assert "long-lived" not in repr(found)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "No such file"),
        ("{secret", "is not JSON"),
        ("[]", "is no docker config.json"),
        ('{"auths": []}', "is no docker config.json"),
        ('{"auths": {"r.x": {"auth": "secret!"}}}', "is not base64"),
        ('{"auths": {"r.x": {"auth": "/w=="}}}', "is not base64"),
        ('{"auths": {"r.x": {}}, "credsStore": "secretservice"}', "a helper program"),
        ('{"credHelpers": {"r.x": "ecr-login"}}', "a helper program"),
    ],
)
def test_no_usable_file(tmp_path: Path, content: str | None, what: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=what) as caught:
        load_credentials(tmp_path / "config.json", "r.x", "a")
    assert "podman login" in caught.value.hint
    assert "secret!" not in caught.value.message


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", {}),
        ("Negotiate", {}),
        ("Basic", {"basic": {}}),
        ('basic Realm="a, b"', {"basic": {"realm": "a, b"}}),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"',
            {"bearer": {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"}},
        ),
        ('Basic realm="x", Bearer realm=y', {"basic": {"realm": "x"}, "bearer": {"realm": "y"}}),
    ],
)
def test_challenges(header: str, found: dict[str, dict[str, str]]) -> None:
    assert challenges(header) == found


def test_scopes() -> None:
    assert Scope("a/b").words == ("repository:a/b:pull",)
    assert Scope("a", push=True, also="b").words == ("repository:a:pull,push", "repository:b:pull")


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert oci.find_auth_file() is None
    docker, podman, named = tmp_path / ".docker/config.json", tmp_path / "run/containers/auth.json", tmp_path / "named"
    for path in (docker, podman, named):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert oci.find_auth_file() == docker
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    assert oci.find_auth_file() == podman
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(named))
    assert oci.find_auth_file() == named
