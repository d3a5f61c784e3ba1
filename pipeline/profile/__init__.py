"""The room of the profiles: what an operating system is, read from ``osprofiles/*.yaml`` into frozen models."""

from pipeline.profile.load import find, load, names, select
from pipeline.profile.model import (
    ArchSpec,
    Boot,
    DebBase,
    Disk,
    Expectations,
    Profile,
    Release,
    RpmBase,
    RpmRepository,
)

__all__ = [
    "ArchSpec",
    "Boot",
    "DebBase",
    "Disk",
    "Expectations",
    "Profile",
    "Release",
    "RpmBase",
    "RpmRepository",
    "find",
    "load",
    "names",
    "select",
]
