"""The matrix: many images at once, each in a process of its own; one that fails stops no other."""

from pipeline.matrix.collect import check as check_artifacts
from pipeline.matrix.commands import run_scheduler, run_worker
from pipeline.matrix.farm import Access, Address, Farm
from pipeline.matrix.model import RegistryAccess, Report, Result, Workshop
from pipeline.matrix.report import Written
from pipeline.matrix.report import write as write_page
from pipeline.matrix.run import build
from pipeline.matrix.show import print_report, print_selection

__all__ = [
    "Access",
    "Address",
    "Farm",
    "RegistryAccess",
    "Report",
    "Result",
    "Workshop",
    "Written",
    "build",
    "check_artifacts",
    "print_report",
    "print_selection",
    "run_scheduler",
    "run_worker",
    "write_page",
]
