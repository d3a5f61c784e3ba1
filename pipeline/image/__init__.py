"""Node images: from a profile to a published qcow2 with its manifest."""

from pipeline.image.artifact import Pushed
from pipeline.image.artifact import fetch as fetch_images
from pipeline.image.artifact import publish as publish_images
from pipeline.image.artifact import pull as pull_image
from pipeline.image.artifact import push as push_image
from pipeline.image.build import Built, build, clean, up_to_date
from pipeline.image.compare import compare as compare_images
from pipeline.image.compare import locate as locate_image
from pipeline.image.compare import print_text as print_difference
from pipeline.image.compare import write_html as write_difference
from pipeline.image.doctor import doctor
from pipeline.image.history import History, Record, Step, keep_others
from pipeline.image.history import read as read_history
from pipeline.image.inspect import inspect
from pipeline.image.inspect import text as inspection_text
from pipeline.image.kernel_update import other_kernel
from pipeline.image.lock import path_of as lock_path
from pipeline.image.lock import read as read_lock
from pipeline.image.locking import text as lock_text
from pipeline.image.locking import update as update_lock
from pipeline.image.plan import SPACE_COLD, SPACE_WARM, Plan, check_runnable, resolve
from pipeline.image.show import Published, outcome, plan_text, print_rows, published, rows

__all__ = [
    "SPACE_COLD",
    "SPACE_WARM",
    "Built",
    "History",
    "Plan",
    "Published",
    "Pushed",
    "Record",
    "Step",
    "build",
    "check_runnable",
    "clean",
    "compare_images",
    "doctor",
    "fetch_images",
    "inspect",
    "inspection_text",
    "keep_others",
    "locate_image",
    "lock_path",
    "lock_text",
    "other_kernel",
    "outcome",
    "plan_text",
    "print_difference",
    "print_rows",
    "publish_images",
    "published",
    "pull_image",
    "push_image",
    "read_history",
    "read_lock",
    "resolve",
    "rows",
    "up_to_date",
    "update_lock",
    "write_difference",
]
