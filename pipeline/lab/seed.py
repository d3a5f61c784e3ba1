"""The disk from which cloud-init learns who a machine is (datasource NoCloud).

A vfat file system labelled CIDATA with ``meta-data`` and ``user-data``. Both are JSON, which is YAML.

Source: cloud-init, doc/rtd/reference/datasources/nocloud.rst.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import process
from pipeline.core.errors import InputError

LABEL = "CIDATA"
DISK_KIB = 1024
OURS = ("disable_root", "ssh_authorized_keys")


@dataclass(frozen=True)
class Seed:
    """What a machine is told at its first boot.

    Attributes:
        instance_id: unique per machine; a new one makes cloud-init begin anew.
        hostname: the machine's name.
        public_keys: OpenSSH public keys that may log in, as root and as the image's own user.
        user_data: further cloud-config, by module.
    """

    instance_id: str
    hostname: str
    public_keys: Sequence[str]
    user_data: Mapping[str, object]

    def __post_init__(self) -> None:
        taken = sorted(set(OURS) & set(self.user_data))
        if taken:
            what = f"user-data of a lab machine may not set: {', '.join(taken)}"
            raise InputError(what, hint="the lab logs in with these")

    def meta_data(self) -> str:
        """Return the text of ``meta-data``."""
        return json.dumps({"instance-id": self.instance_id, "local-hostname": self.hostname}, indent=1) + "\n"

    def cloud_config(self) -> str:
        """Return the text of ``user-data``."""
        ours = {"disable_root": False, "ssh_authorized_keys": list(self.public_keys)}
        return "#cloud-config\n" + json.dumps({**self.user_data, **ours}, indent=1) + "\n"


def write(seed: Seed, disk: Path) -> None:
    """Write a seed as a raw disk.

    Args:
        seed: what it says.
        disk: file to make; it must not exist.

    Raises:
        ToolError: mkfs.vfat or mcopy failed.
    """
    process.run(["mkfs.vfat", "-C", "-n", LABEL, disk, str(DISK_KIB)], what="making the cloud-init seed")
    for name, text in (("meta-data", seed.meta_data()), ("user-data", seed.cloud_config())):
        process.run(["mcopy", "-i", disk, "-", f"::/{name}"], stdin=text, what="writing the cloud-init seed")
