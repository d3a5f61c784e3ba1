"""Another machine, as far as a build could tell: 40 days later, another name, time zone and umask, one processor.

The clock is libfaketime's. It must reach every program, also those that get an environment of ours, so it is named in
/etc/ld.so.preload; of this and of the host's name only one private namespace knows. Programs inside a tree keep the
real time, as the tree has no such file; so does what the kernel writes into file systems.
"""

from __future__ import annotations

import os
from pathlib import Path

LATER = "+40d"
LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")
# Where libfaketime cannot make a semaphore it shares nothing: else the first child that ends takes its parent's away,
# and what runs in a sandbox cannot open it. mtools gets the real times of files, which libfaketime shifts as well: a
# build has just set them.
SCRIPT = """\
set -e
hostname elsewhere
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" none /etc
mount -t tmpfs -o ro none /dev/shm
cp "$(readlink -f /usr/bin/mtools)" "$1/mtools"
printf '#!/bin/bash\\nNO_FAKE_STAT=1 exec -a "${0##*/}" %s "$@"\\n' "$1/mtools" >"$1/wrapper"
chmod 755 "$1" "$1/wrapper"
mount --bind "$1/wrapper" "$(readlink -f /usr/bin/mtools)"
umask 027
processor=$2
echo "$3" >/etc/faketimerc
echo "$4" >/etc/ld.so.preload
shift 4
exec env TZ=Pacific/Kiritimati taskset -c "$processor" "$@"
"""


def library() -> Path | None:
    """Return where libfaketime is, None if it is not installed."""
    return next((path for pattern in LIBRARIES for path in sorted(Path("/").glob(pattern[1:]))), None)


def wrapper(scratch: Path) -> list[str]:
    """Return what to put before a command that shall run elsewhere; needs root.

    Args:
        scratch: an empty directory.
    """
    found = library()
    assert found is not None, "libfaketime is not installed"
    words = ["unshare", "--mount", "--uts", "--propagation=private", "sh", "-c", SCRIPT, "sh", scratch]
    return [str(word) for word in (*words, max(os.sched_getaffinity(0)), LATER, found)]
