"""The cluster-installer: its components, its payload, its image."""

from pipeline.installer.components import Source
from pipeline.installer.image import Built, build, push
from pipeline.installer.lock import make as make_lock
from pipeline.installer.plan import Plan, resolve
from pipeline.installer.show import EXAMPLE, installed_line, outcome, print_image

__all__ = [
    "EXAMPLE",
    "Built",
    "Plan",
    "Source",
    "build",
    "installed_line",
    "make_lock",
    "outcome",
    "print_image",
    "push",
    "resolve",
]
