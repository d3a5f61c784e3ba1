"""The page that lies beside a bundle: what it is and what to do with it, Chinese first, then English."""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bundle.field.messages import FAULTS, Messages

if TYPE_CHECKING:
    from pipeline.bundle.model import Bundle

NAME = "README-现场.md"
MOST_ROWS, SHOWN = 25, 3
TEMPLATE = Path(__file__).with_name("page.md")


def readme(bundle: Bundle) -> bytes:
    """Return the page for one bundle.

    Args:
        bundle: it, with its volumes.
    """
    values = {
        "name": bundle.name,
        "id": bundle.id,
        "created": bundle.created,
        "images": str(len(bundle.images)),
        "total": f"{bundle.total:,}",
        "store": bundle.store,
    }
    for language in ("zh", "en"):
        say = Messages(language)
        values[f"kind_{language}"] = say(f"kind.{bundle.kind}")
        values[f"base_{language}"] = ", ".join(base.name for base in bundle.base.bundles) or say("no-base")
        values[f"volumes_{language}"] = _volumes(bundle, say)
        values[f"faults_{language}"] = "\n".join(f"| {code} | {say(f'fault.{code}')} |" for code in FAULTS)
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(values).encode()


def _volumes(bundle: Bundle, say: Messages) -> str:
    """Return the rows of a table: each volume and its bytes; of very many only some, as this is one page."""
    rows = [(f"{bundle.name}.bundle.000", say("head"))]
    rows += [(volume.name, f"{volume.size:,}") for volume in bundle.volumes]
    if len(rows) > MOST_ROWS:
        rows[SHOWN:-1] = [("…", "…")]
    return "\n".join(f"| {name} | {words} |" for name, words in rows)
