"""The room of the profiles: what an operating system is, read from ``osprofiles/*.yaml`` into frozen models."""

from pipeline.profile.cells import Cell, cells
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
    "Cell",
    "DebBase",
    "Disk",
    "Expectations",
    "Profile",
    "Release",
    "RpmBase",
    "RpmRepository",
    "cells",
    "find",
    "load",
    "names",
    "select",
]
