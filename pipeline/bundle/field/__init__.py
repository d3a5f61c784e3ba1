"""The one file for the field: ``bundle.pyz``, and the page that lies beside it."""

from pipeline.bundle.field.page import NAME as README_NAME
from pipeline.bundle.field.page import readme
from pipeline.bundle.field.zipapp import build

__all__ = ["README_NAME", "build", "readme"]
