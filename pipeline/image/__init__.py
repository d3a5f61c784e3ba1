"""Node images: from a profile to a published qcow2 with its manifest."""

from pipeline.image.build import Built, build, clean, up_to_date
from pipeline.image.inspect import inspect
from pipeline.image.inspect import text as inspection_text
from pipeline.image.kernel_update import other_kernel
from pipeline.image.plan import Plan, resolve
from pipeline.image.show import outcome, plan_text, print_rows, rows

__all__ = [
    "Built",
    "Plan",
    "build",
    "clean",
    "inspect",
    "inspection_text",
    "other_kernel",
    "outcome",
    "plan_text",
    "print_rows",
    "resolve",
    "rows",
    "up_to_date",
]
