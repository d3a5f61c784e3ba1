"""Node images: from a profile to a published qcow2 with its manifest."""

from pipeline.image.build import Built, build, up_to_date
from pipeline.image.plan import Plan, resolve

__all__ = ["Built", "Plan", "build", "resolve", "up_to_date"]
