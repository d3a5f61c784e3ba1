"""The image as this project makes it, and what that costs besides time."""

from __future__ import annotations

import json
import resource
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import machine, scenarios
from benchmarks.peers.made import Made
from benchmarks.scenarios import BuildSample, Place
from pipeline.core import namespace

NAME = "node-images"
EDIT = scenarios.EDITS["that the initramfs does not see"]
BLOCK = 512  # unit of ru_inblock and ru_oublock on Linux (getrusage(2): file system blocks, counted in 512 bytes)


@dataclass(frozen=True)
class Traffic:
    """What a build read from and wrote to disks, all its programs together.

    Attributes:
        read: bytes that were not in the page cache.
        written: bytes of pages that it made dirty.
    """

    read: int
    written: int


@dataclass
class Ours:
    """This project in a private place, with the packages of the real cache.

    Attributes:
        where: the place.
        samples: every build so far.
        traffic: of every rebuild so far.
    """

    where: Place
    samples: list[BuildSample] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    name: str = NAME

    def version(self) -> str:
        """Return the checkout's commit."""
        return machine.revision()

    def prepare(self) -> None:
        """Fill the package cache."""
        self.where.build()

    def cold(self) -> Made:
        """Build with nothing cached but packages."""
        namespace.run_private(self.where.forget)
        return self._made()

    def rebuild(self, number: int) -> Made:
        """Build after an edit of the script that runs last, with everything cached that can be.

        Args:
            number: makes each edit another one.
        """
        script = scenarios.last_script(self.where)
        original = script.read_text()
        script.write_text(scenarios.edited(original, EDIT.format(number=number)))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            made = self._made()
        finally:
            script.write_text(original)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.traffic.append(traffic(before, after))
        return made

    def filtered(self) -> Made:
        """Build once more: our images never have what the profile leaves out."""
        return self._made()

    def _made(self) -> Made:
        sample = self.where.build()
        self.samples.append(sample)
        return Made(sample.seconds, self._image())

    def _image(self) -> Path:
        return next(self.where.results.glob("*/*.qcow2"))

    def tree_size(self) -> int:
        """Return the bytes of the files in the built tree."""
        manifest = json.loads((self._image().parent / "manifest.json").read_text())
        return int(manifest["tree"]["size"])


def traffic(before: resource.struct_rusage, after: resource.struct_rusage) -> Traffic:
    """Return what all children did between two looks."""
    read, written = after.ru_inblock - before.ru_inblock, after.ru_oublock - before.ru_oublock
    return Traffic(read * BLOCK, written * BLOCK)
