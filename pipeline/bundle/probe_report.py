"""What was found out about the layers of a registry, for people and as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.bundle.codec import CARRIED
from pipeline.bundle.listing import table

if TYPE_CHECKING:
    from pipeline.bundle.codec import Encoder

MB = 1e6


@dataclass(frozen=True)
class Gzip:
    """A gzip header of which nobody here knows who writes it (RFC 1952, 2.3).

    Attributes:
        system: the OS byte.
        flag: the XFL byte.
        time: MTIME.
        header: all of it, in hexadecimal.
    """

    system: int
    flag: int
    time: int
    header: str


@dataclass(frozen=True)
class Layer:
    """A layer.

    Attributes:
        digest: the layer's.
        size: its bytes.
        kind: what made it, in words.
        images: what has it.
        encoder: what made it; None if that is not known, or no gzip.
        unknown: its header, if it is gzip of an unknown encoder.
    """

    digest: str
    size: int
    kind: str
    images: tuple[str, ...]
    encoder: Encoder | None = None
    unknown: Gzip | None = None

    @property
    def can_be_lean(self) -> bool:
        """Whether it can be stored lean, as far as its beginning tells."""
        return self.encoder is not None and self.encoder.name in CARRIED

    def to_json(self) -> dict[str, Any]:
        """Return it as an object."""
        return {
            "digest": self.digest,
            "size": self.size,
            "kind": self.kind,
            "images": list(self.images),
            "lean": self.can_be_lean,
            "encoder": self.encoder.to_json() if self.encoder else None,
            "unknown": vars(self.unknown) if self.unknown else None,
        }


@dataclass(frozen=True)
class Problem:
    """What could not be read.

    Attributes:
        name: an image, repository or layer.
        what: why.
    """

    name: str
    what: str


@dataclass(frozen=True)
class Estimate:
    """What lean would make of the layers, from a sample of them. All are bytes but the first.

    Attributes:
        layers: how many layers are in the sample, some of them only with their beginning.
        sampled: compressed bytes of the sample.
        became: what they became.
        able: all layers that can be stored lean.
        others: all layers that stay as they are.
    """

    layers: int
    sampled: int
    became: int
    able: int
    others: int

    @property
    def ratio(self) -> float | None:
        """What lean made of a byte; None without a sample."""
        return self.became / self.sampled if self.sampled else None

    @property
    def total(self) -> int | None:
        """All layers, stored lean as far as that is possible; None without a sample."""
        return None if self.ratio is None else round(self.able * self.ratio) + self.others


@dataclass(frozen=True)
class Probe:
    """What was found out.

    Attributes:
        images: how many images were read.
        layers: their layers, each once.
        problems: what could not be read.
        estimate: what lean would save.
    """

    images: int
    layers: tuple[Layer, ...]
    problems: tuple[Problem, ...]
    estimate: Estimate

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(layer.size for layer in self.layers)

    def text(self) -> str:
        """Return it for the user."""
        return "\n".join(self._lines())

    def to_json(self) -> str:
        """Return it as JSON; sizes are bytes."""
        estimate = vars(self.estimate) | {"ratio": self.estimate.ratio, "total": self.estimate.total}
        value = {
            "images": self.images,
            "size": self.size,
            "encoders": [
                {
                    "kind": kind,
                    "lean": own[0].can_be_lean,
                    "layers": len(own),
                    "images": _images(own),
                    "size": _size(own),
                }
                for kind, own in self._by_kind()
            ],
            "layers": [layer.to_json() for layer in self.layers],
            "estimate": estimate,
            "problems": [vars(problem) for problem in self.problems],
        }
        return json.dumps(value, indent=2)

    def _by_kind(self) -> list[tuple[str, list[Layer]]]:
        """Return the layers by what made them, the most bytes first."""
        kinds: dict[str, list[Layer]] = defaultdict(list)
        for layer in self.layers:
            kinds[layer.kind].append(layer)
        return sorted(kinds.items(), key=lambda one: (-_size(one[1]), one[0]))

    def _lines(self) -> Iterator[str]:
        yield f"{self.images} images, {len(self.layers)} layers of {self.size / MB:.1f} MB"
        if self.layers:
            yield ""
            rows = [_row(kind, own, self.size) for kind, own in self._by_kind()]
            yield from table([("made by", "lean", "layers", "images", "MB", "share"), *rows])
        yield from self._unknown()
        yield ""
        yield from self._savings()
        if self.problems:
            yield ""
            yield f"{len(self.problems)} could not be read:"
            yield from (f"  {problem.name}: {problem.what}" for problem in self.problems)

    def _unknown(self) -> Iterator[str]:
        """Yield the headers of unknown encoders, which a user may send to whoever looks after this program."""
        headers: dict[Gzip, list[Layer]] = defaultdict(list)
        for layer in self.layers:
            if layer.unknown is not None:
                headers[layer.unknown].append(layer)
        if not headers:
            return
        rows = [
            (
                str(one.system),
                str(one.flag),
                str(one.time),
                one.header,
                str(len(own)),
                f"{_size(own) / MB:.1f}",
                own[0].images[0],
            )
            for one, own in headers.items()
        ]
        yield ""
        yield "gzip headers of unknown encoders (report them, with what made the images):"
        yield from table([("OS", "XFL", "MTIME", "header", "layers", "MB", "for example"), *rows])

    def _savings(self) -> Iterator[str]:
        one = self.estimate
        if one.ratio is None or one.total is None:
            yield f"{one.able / MB:.1f} MB of the layers can be stored lean; without a sample the gain is not known"
            return
        became = f"became {one.became / MB:.1f} MB (ratio {one.ratio:.2f})"
        yield f"sample: {one.layers} layers with {one.sampled / MB:.1f} MB {became}"
        yield (
            f"lean, estimated from it: {one.able / MB:.1f} MB of layers become {one.able * one.ratio / MB:.1f} MB, "
            f"{one.others / MB:.1f} MB stay as they are: {one.total / MB:.1f} of {self.size / MB:.1f} MB"
        )
        if one.sampled < one.able:
            yield "what layers outside of the sample have in common is not counted: a larger sample tells more"


def _size(layers: Sequence[Layer]) -> int:
    return sum(layer.size for layer in layers)


def _images(layers: Sequence[Layer]) -> int:
    return len({image for layer in layers for image in layer.images})


def _row(kind: str, layers: Sequence[Layer], total: int) -> tuple[str, ...]:
    share = _size(layers) / total if total else 0
    is_lean = "yes" if layers[0].can_be_lean else "no"
    return kind, is_lean, str(len(layers)), str(_images(layers)), f"{_size(layers) / MB:.1f}", f"{share:.1%}"
