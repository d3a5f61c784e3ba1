"""The payload's own files, and what is generated beside them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.installer import payload
from pipeline.installer.components import Component

URLS = {"url": "https://a.test/x", "checksum": "https://a.test/x"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "payload"
    (made / "bin").mkdir(parents=True)
    (made / "bin/install").write_text("#!/bin/bash\n")
    (made / "bin/install").chmod(0o755)
    return made


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0o755, 0o755), (0o744, 0o755), (0o4700, 0o755), (0o644, 0o644), (0o600, 0o644), (0o666, 0o644)],
)
def test_modes_are_one_of_two(mode: int, expected: int, directory: Path) -> None:
    (directory / "file").write_text("content")
    (directory / "file").chmod(mode)
    found = {file.path: file.mode for file in payload.collect(directory)}
    assert found == {"bin/install": 0o755, "file": expected}


def test_files_are_sorted_and_empty_directories_left_out(directory: Path) -> None:
    for name in ("b", "B", "a-b", "a/b", ".hidden", "ü x"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(name)
    (directory / "empty").mkdir()
    found = [file.path for file in payload.collect(directory)]
    assert found == sorted([".hidden", "B", "a-b", "a/b", "b", "bin/install", "ü x"])


def link(directory: Path) -> None:
    (directory / "lib").symlink_to("bin")


def dangling(directory: Path) -> None:
    (directory / "lib").symlink_to("nowhere")


def pipe(directory: Path) -> None:
    os.mkfifo(directory / "lib")


def newline(directory: Path) -> None:
    (directory / "a\nb").write_text("")


def newline_in_directory(directory: Path) -> None:
    (directory / "a\nb").mkdir()


def backslash(directory: Path) -> None:
    (directory / "a\\b").write_text("")


def not_text(directory: Path) -> None:
    Path(os.fsdecode(bytes(directory) + b"/\xff")).write_text("")


def generated(directory: Path) -> None:
    (directory / "SHA256SUMS").write_text("")


def generated_directory(directory: Path) -> None:
    (directory / "components").mkdir()


def environment(directory: Path) -> None:
    (directory / "payload.env").write_text("")


def plain_entry(directory: Path) -> None:
    (directory / "bin/install").chmod(0o644)


def no_entry(directory: Path) -> None:
    (directory / "bin/install").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (link, "lib is a symbolic link; the payload holds files and directories only"),
        (dangling, "lib is a symbolic link"),
        (pipe, "lib is a device, pipe or socket"),
        (newline, "a\\nb': no name in the payload may have a newline"),
        (newline_in_directory, "no name in the payload may have a newline"),
        (backslash, "no name in the payload may have a newline, a control character or a backslash"),
        (not_text, "no name in the payload"),
        (generated, "SHA256SUMS would hide what the build makes"),
        (generated_directory, "components would hide what the build makes"),
        (environment, "payload.env would hide what the build makes"),
        (plain_entry, "has no executable bin/install"),
        (no_entry, "has no executable bin/install"),
    ],
)
def test_what_has_no_place_in_a_payload(spoil: Callable[[Path], None], said: str, directory: Path) -> None:
    spoil(directory)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        payload.collect(directory)
    assert caught.value.hint


def test_no_payload_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a directory"):
        payload.collect(tmp_path / "payload")


@pytest.mark.parametrize("version", ["1.20.2", "v1.20.2"])
def test_payload_env(version: str) -> None:
    components = {
        "kubeadm": Component.model_validate(URLS | {"version": version}),
        "cni-plugins": Component.model_validate(URLS | {"version": "1.6.2"}),
    }
    text = payload.environment_text(payload.environment("0.1.0", "abc", Architecture.ARM64, components))
    assert text.splitlines() == [
        "PAYLOAD_VERSION=0.1.0",
        "PAYLOAD_REVISION=abc",
        "PAYLOAD_ARCH=arm64",
        "KUBERNETES_VERSION=v1.20.2",
        "CNI_PLUGINS_VERSION=1.6.2",
        f"KUBEADM_VERSION={version}",
    ]


def test_sums_are_what_sha256sum_checks(directory: Path) -> None:
    (directory / "a b").write_text("content")
    files = payload.collect(directory)
    (directory / "SHA256SUMS").write_text(payload.sums_text((file.path, file.sha256) for file in reversed(files)))
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=directory, capture_output=True, text=True, check=True
    )
    assert done.stdout == "a b: OK\nbin/install: OK\n"
