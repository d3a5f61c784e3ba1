#!/usr/bin/env bash
# Stands in for kpartx where the kernel has no device mapper: a loop device for each partition, under kpartx's names.
#
# Arguments: as diskimage-builder gives them: -uvs or -d, then the loop device of the whole disk.
# Environment: none.
set -Eeuo pipefail

readonly DEVICE=${*: -1}
readonly NAME=${DEVICE#/dev/}

remove() {
  local link loop
  for link in /dev/mapper/"${NAME}"p*; do
    loop=$(readlink "${link}")
    losetup --detach "${loop}"
    rm "${link}"
  done
}

# Each is made on the file below the disk: on top of another loop device it could not be trimmed.
add() {
  local number start sectors loop partitions file
  file=$(<"/sys/block/${NAME}/loop/backing_file")
  partitions=$(partx --raw --noheadings --output NR,START,SECTORS "${DEVICE}")
  while read -r number start sectors; do
    loop=$(losetup --find --show --offset "$((start * 512))" --sizelimit "$((sectors * 512))" "${file}")
    ln -s "${loop}" "/dev/mapper/${NAME}p${number}"
  done <<<"${partitions}"
}

if [[ $1 == -d ]]; then
  remove
else
  add
fi
