"""How a gzip layer is made again: where its content lies, and what compressed it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.bundle.codec import Encoder
from pipeline.core.errors import InputError
from pipeline.oci import canonical, is_digest

VERSION = 1
RUN = 3  # numbers
_KEYS = {"version", "digest", "size", "raw_size", "encoder", "sources", "runs"}
_DAMAGED = "the bundle is damaged, or made by a newer version of this program: copy it again"


@dataclass(frozen=True)
class Recipe:
    """How a gzip layer is made again.

    Attributes:
        digest: the layer's; what is made is checked against it.
        size: the layer's bytes.
        raw_size: bytes of its content.
        encoder: what compresses the content.
        sources: layers of a base, from whose content some of it is taken.
        runs: where the content lies, in its order: a frame's number, or -1 for the first source, -2 for the second and
            so on; the offset in the frame's or the source's content; the length. All in bytes.
    """

    digest: str
    size: int
    raw_size: int
    encoder: Encoder
    sources: tuple[str, ...]
    runs: tuple[tuple[int, int, int], ...]

    def to_bytes(self) -> bytes:
        """Return it as canonical JSON."""
        return canonical(
            {
                "version": VERSION,
                "digest": self.digest,
                "size": self.size,
                "raw_size": self.raw_size,
                "encoder": self.encoder.to_json(),
                "sources": list(self.sources),
                "runs": [list(run) for run in self.runs],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Recipe:
        """Read a recipe.

        Raises:
            InputError: it is none.
        """
        try:
            value = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise InputError(f"a recipe is not JSON: {error}", hint=_DAMAGED) from error
        if not isinstance(value, dict) or value.get("version") != VERSION or set(value) != _KEYS:
            raise InputError("a recipe is of another version, or none", hint=_DAMAGED)
        sources, runs = value["sources"], value["runs"]
        if not all(isinstance(one, list) for one in (sources, runs, *(runs if isinstance(runs, list) else ()))):
            raise InputError("a recipe has no lists of sources and runs", hint=_DAMAGED)
        recipe = cls(
            value["digest"],
            value["size"],
            value["raw_size"],
            Encoder.from_json(value["encoder"]),
            tuple(sources),
            tuple(tuple(run) for run in runs),
        )
        recipe.check()
        return recipe

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            InputError: digests, sizes or runs cannot be ones.
        """
        digests: list[Any] = [self.digest, *self.sources]
        if not all(isinstance(digest, str) and is_digest(digest) for digest in digests):
            raise InputError("a recipe names something that is no digest", hint=_DAMAGED)
        sizes: list[Any] = [self.size, self.raw_size]
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise InputError(f"the recipe of {self.digest} has no sizes", hint=_DAMAGED)
        for run in self.runs:
            is_run = len(run) == RUN and all(type(number) is int for number in run)
            if not is_run or run[0] < -len(self.sources) or run[1] < 0 or run[2] <= 0:
                raise InputError(f"the recipe of {self.digest} has a run that cannot be: {run}", hint=_DAMAGED)
        if sum(run[2] for run in self.runs) != self.raw_size:
            raise InputError(f"the recipe of {self.digest} does not make {self.raw_size} bytes", hint=_DAMAGED)
