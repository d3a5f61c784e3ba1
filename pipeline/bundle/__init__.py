"""The room of bundles: container images, carried to a site without internet, every byte unchanged (decision D13).

Headquarters' side fetches, packs, patches and looks into registries; the site's side lists, verifies, expands and
syncs. What the site's side is made of also goes into ``bundle.pyz`` and runs on Python 3.6: see ``field/``.
"""

from pipeline.bundle.archive import Archive
from pipeline.bundle.assemble import Options
from pipeline.bundle.compose import compose
from pipeline.bundle.desk import opened, outcome, registries
from pipeline.bundle.diff import diff
from pipeline.bundle.diff import load as read
from pipeline.bundle.field.cli import main
from pipeline.bundle.forecast import forecast
from pipeline.bundle.images import ImageList
from pipeline.bundle.images import load as read_images
from pipeline.bundle.journal import state_directory
from pipeline.bundle.pack import pack
from pipeline.bundle.patch import patch, upgrade
from pipeline.bundle.probe import probe, probe_registry
from pipeline.bundle.prune import plan_prune, prune
from pipeline.bundle.rates import Rates
from pipeline.bundle.release import read as read_release
from pipeline.bundle.store import STORE
from pipeline.bundle.sync_plan import Target

__all__ = [
    "STORE",
    "Archive",
    "ImageList",
    "Options",
    "Rates",
    "Target",
    "compose",
    "diff",
    "forecast",
    "main",
    "opened",
    "outcome",
    "pack",
    "patch",
    "plan_prune",
    "probe",
    "probe_registry",
    "prune",
    "read",
    "read_images",
    "read_release",
    "registries",
    "state_directory",
    "upgrade",
]
