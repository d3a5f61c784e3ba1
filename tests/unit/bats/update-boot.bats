#!/usr/bin/env bats
# The program that keeps an RPM node bootable when kernels come and go, with stand-ins for dracut and grub2-mkconfig.
# It always runs as a program of its own: `run` on a function would switch errexit off inside it.

setup() {
  UPDATE=${BATS_TEST_DIRNAME}/../../../overlays/rpm/root/usr/lib/cluster/update-boot
  ROOT=${BATS_TEST_TMPDIR}/root
  LOG=${BATS_TEST_TMPDIR}/log
  MENU=${ROOT}/boot/grub2/grub.cfg
  mkdir -p "${ROOT}/run/systemd/system" "${ROOT}/boot/grub2" "${ROOT}/lib/modules" "${BATS_TEST_TMPDIR}/bin"
  echo 'the old menu' >"${MENU}"
  : >"${LOG}"
  stub dracut 'echo "dracut $*" >>"$LOG"; [[ $1 == --force ]]; echo initramfs >"$2"'
  # What the real one does: every kernel in /boot, the newest first.
  stub grub2-mkconfig 'echo "mkconfig $*" >>"$LOG"
    for image in $(ls -r "$ROOT"/boot/vmlinuz-*); do
      version=${image##*/vmlinuz-}
      printf "menuentry {\n\tlinux\t/boot/vmlinuz-%s root=${ROOT_ARGUMENT:-UUID=1234-abcd} ro\n" "$version"
      [[ ! -e $ROOT/boot/initramfs-$version.img ]] || printf "\tinitrd\t/boot/initramfs-%s.img\n" "$version"
      echo "}"
    done >"$2"'
  kernel 6.1.0-1.x86_64
}

stub() {
  printf '#!/bin/bash\nset -e\n%s\n' "$2" >"${BATS_TEST_TMPDIR}/bin/$1"
  chmod 0755 "${BATS_TEST_TMPDIR}/bin/$1"
}

# Makes a kernel as its package leaves it: image beside the modules.
kernel() {
  mkdir -p "${ROOT}/lib/modules/$1"
  echo "image $1" >"${ROOT}/lib/modules/$1/vmlinuz"
}

update() {
  run env PATH="${BATS_TEST_TMPDIR}/bin:${PATH}" ROOT="${ROOT}" LOG="${LOG}" "${UPDATE}" --root "${ROOT}" "$@"
}

# Asserts exit code $1 and a line of output that holds $2.
expect() {
  if [[ ${status} != "$1" || ${output} != *"$2"* ]]; then
    echo "wanted exit code $1 and '$2', got ${status}:"
    echo "${output}"
    return 1
  fi
}

@test "nothing is done where no systemd runs, as in an image build" {
  rmdir "${ROOT}/run/systemd/system"
  update add 6.1.0-1.x86_64
  expect 0 ''
  [[ ! -s ${LOG} && $(<"${MENU}") == 'the old menu' ]]
}

@test "a new kernel gets its image, its initramfs and an entry" {
  update add 6.1.0-1.x86_64
  kernel 6.1.0-2.x86_64
  update add 6.1.0-2.x86_64
  expect 0 ''
  [[ $(<"${ROOT}/boot/vmlinuz-6.1.0-2.x86_64") == 'image 6.1.0-2.x86_64' ]]
  [[ -s ${ROOT}/boot/initramfs-6.1.0-2.x86_64.img ]]
  [[ $(grep -c vmlinuz "${MENU}") -eq 2 ]]
  [[ $(grep -m 1 vmlinuz "${MENU}") == *6.1.0-2* ]]
  [[ -z $(find "${ROOT}/boot" -name '*.new' -o -name '*.update' -o -name '.*') ]]
}

@test "an initramfs that is there is not made again" {
  echo ready >"${ROOT}/boot/initramfs-6.1.0-1.x86_64.img"
  update add 6.1.0-1.x86_64
  expect 0 ''
  [[ $(<"${ROOT}/boot/initramfs-6.1.0-1.x86_64.img") == ready ]]
  [[ $(<"${LOG}") != *dracut* ]]
}

@test "an image in /boot stays, as the older systems' packages put it there" {
  rm "${ROOT}/lib/modules/6.1.0-1.x86_64/vmlinuz"
  echo mine >"${ROOT}/boot/vmlinuz-6.1.0-1.x86_64"
  update add 6.1.0-1.x86_64
  expect 0 ''
  [[ $(<"${ROOT}/boot/vmlinuz-6.1.0-1.x86_64") == mine ]]
}

@test "a removed kernel leaves the menu while its files are still there" {
  kernel 6.1.0-2.x86_64
  update add 6.1.0-2.x86_64
  update remove 6.1.0-2.x86_64
  expect 0 ''
  [[ $(grep -c vmlinuz "${MENU}") -eq 1 ]]
  [[ $(<"${MENU}") != *6.1.0-2* ]]
  [[ -z $(find "${ROOT}/boot" -name '*6.1.0-2*') ]]
}

@test "the only kernel stays, and what kernel-install deleted of it comes back" {
  update add 6.1.0-1.x86_64
  rm "${ROOT}"/boot/vmlinuz-* "${ROOT}"/boot/initramfs-*
  cp "${MENU}" "${BATS_TEST_TMPDIR}/menu"
  update remove 6.1.0-1.x86_64
  expect 1 'is the only kernel'
  cmp "${MENU}" "${BATS_TEST_TMPDIR}/menu"
  [[ -s ${ROOT}/boot/vmlinuz-6.1.0-1.x86_64 && -s ${ROOT}/boot/initramfs-6.1.0-1.x86_64.img ]]
}

@test "a failed removal puts the kernel back" {
  kernel 6.1.0-2.x86_64
  update add 6.1.0-2.x86_64
  cp "${MENU}" "${BATS_TEST_TMPDIR}/menu"
  stub grub2-mkconfig 'exit 3'
  update remove 6.1.0-2.x86_64
  expect 3 ''
  cmp "${MENU}" "${BATS_TEST_TMPDIR}/menu"
  [[ $(<"${ROOT}/boot/vmlinuz-6.1.0-2.x86_64") == 'image 6.1.0-2.x86_64' ]]
  [[ -s ${ROOT}/boot/initramfs-6.1.0-2.x86_64.img ]]
}

@test "a menu without a kernel is refused" {
  stub grub2-mkconfig 'echo "set timeout=1" >"$2"'
  update add 6.1.0-1.x86_64
  expect 1 'it names no kernel'
  [[ $(<"${MENU}") == 'the old menu' && ! -e ${MENU}.update ]]
}

@test "a menu that lacks one of the kernels is refused" {
  stub grub2-mkconfig 'printf "linux /boot/vmlinuz-5.0 root=UUID=1234-abcd\n" >"$2"'
  update add 6.1.0-1.x86_64
  expect 1 'does not name kernel 6.1.0-1.x86_64'
  [[ $(<"${MENU}") == 'the old menu' ]]
}

@test "a menu that lacks an initramfs is refused" {
  stub grub2-mkconfig 'printf "linuxefi /boot/vmlinuz-6.1.0-1.x86_64 root=UUID=1234-abcd ro\ninitrdefi /boot/initramfs-5.img\n" >"$2"'
  update add 6.1.0-1.x86_64
  expect 1 'no initramfs for kernel 6.1.0-1.x86_64'
}

@test "a root by device, label or partition UUID is refused" {
  for root in /dev/vda3 LABEL=root PARTUUID=1234-abcd; do
    ROOT_ARGUMENT=${root} update add 6.1.0-1.x86_64
    expect 1 'given by no UUID'
    [[ $(<"${MENU}") == 'the old menu' ]]
  done
}

@test "a failing generator or dracut leaves the old menu" {
  stub grub2-mkconfig 'echo half >"$2.new"; exit 4'
  update add 6.1.0-1.x86_64
  expect 4 ''
  [[ $(<"${MENU}") == 'the old menu' && ! -e ${MENU}.update.new ]]
  rm "${ROOT}"/boot/initramfs-*
  stub dracut 'echo half >"$2"; exit 5'
  update add 6.1.0-1.x86_64
  expect 5 ''
  [[ $(<"${MENU}") == 'the old menu' && -z $(find "${ROOT}/boot" -name 'initramfs*') ]]
}

@test "usage" {
  for words in '' 'add' 'inspect 6.1' 'add ../x' 'add 6.1 more'; do
    # shellcheck disable=SC2086 # words
    update ${words}
    expect 2 'usage:'
  done
}
