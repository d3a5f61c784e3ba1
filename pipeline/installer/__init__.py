"""The cluster-installer: its components, its payload, its image, and the seeds of the nodes that it installs."""

from pipeline.installer.components import Source
from pipeline.installer.image import Built, build, push
from pipeline.installer.lock import make as make_lock
from pipeline.installer.plan import Plan, resolve
from pipeline.installer.render import Rendered, render
from pipeline.installer.show import EXAMPLE, installed_line, outcome, print_image
from pipeline.installer.spec import Site, read

__all__ = [
    "EXAMPLE",
    "Built",
    "Plan",
    "Rendered",
    "Site",
    "Source",
    "build",
    "installed_line",
    "make_lock",
    "outcome",
    "print_image",
    "push",
    "read",
    "render",
    "resolve",
]
