"""A plugin that dnf loads: it writes down what a transaction will install, before anything is done.

It is run by the Python that dnf is run by, not by this project's. Sources: dnf's API reference, ``dnf.Plugin``,
``dnf.package``; libdnf's ``hawkey.Package`` for the checksum.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import dnf
import hawkey


class Chosen(dnf.Plugin):  # type: ignore[misc]  # its type is not known
    """Writes one JSON object a line into the file that CHOSEN_PACKAGES names."""

    name = "chosen"

    def resolved(self) -> None:
        """Called once everything is resolved."""
        # All or nothing: dnf logs what goes wrong in a plugin, and goes on.
        lines = [json.dumps(self._row(package)) for package in sorted(self.base.transaction.install_set)]
        Path(os.environ["CHOSEN_PACKAGES"]).write_text("".join(f"{line}\n" for line in lines))

    @staticmethod
    def _row(package: dnf.package.Package) -> dict[str, str | int]:
        kind, checksum = package.chksum
        return {
            "name": package.name,
            "version": f"{package.epoch}:{package.version}-{package.release}",
            "architecture": package.arch,
            "checksum": f"{hawkey.chksum_name(kind)}:{checksum.hex()}",
            "size": package.downloadsize,
            "repository": package.repoid,
            "location": package.location,
            "base": package.baseurl or "",
            "file": package.localPkg(),
        }
