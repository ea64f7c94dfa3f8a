#!/usr/bin/env bash
# Builds the machine of the appliance tests into target/appliance (CARGO_TARGET_DIR is honoured): Debian 13's QEMU with its libraries, the
# kernel of its cloud images, and a bare Debian 13 with systemd, networkd, ssh and the tools that deploy/install.sh would fetch from the
# distribution (the guest has no way to it), or NixOS brings along. As root; about a minute and a half, nothing when it is there and current.
#
# The kernel finds its disk, a virtio one whose state can be saved, by a small initramfs. States that tests saved of an older machine go.
#
# QEMU comes from Debian 13 because that of Debian 12 (7.2) crashes this kernel without KVM; it runs through its own loader.
set -uo pipefail
cd "$(dirname "$0")" || exit 1

die() { printf '%s\n' "$*" >&2; exit 1; }

[ "$(id -u)" -eq 0 ] || die "Building a root file system needs root: run this again as root."
for tool in mmdebstrap=mmdebstrap mke2fs=e2fsprogs ssh-keygen=openssh-client flock=util-linux dpkg-deb=dpkg cpio=cpio xz=xz-utils; do
    command -v "${tool%%=*}" >/dev/null || die "${tool%%=*} is missing: apt-get install -y ${tool#*=} (tests/run.sh does)."
done

suite=trixie
mirror=http://deb.debian.org/debian
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || die "$keyring is missing: apt-get install -y debian-archive-keyring"
packages=systemd,systemd-sysv,dbus,udev,systemd-timesyncd,openssh-server,iproute2,iptables,ipset,ipvsadm,conntrack,kmod,procps,nftables,curl,ca-certificates,openssl,linux-base,jq

target=${CARGO_TARGET_DIR:-$PWD/../../target}/appliance
mkdir -p "$target" || die "cannot make $target"
target=$(realpath "$target")
stamp=$(sha256sum build.sh | cut -d' ' -f1)

exec 9>"$target/.lock"
flock --nonblock 9 || { echo "waiting for another build of the machine"; flock 9; }
if [ "$(cat "$target/stamp" 2>/dev/null)" = "$stamp" ]; then
    echo "machine of the appliance tests: $target"
    exit 0
fi

begin=$SECONDS
work=$(mktemp -d "$target/.build.XXXXXX") || die "cannot write in $target"
trap 'rm -rf "$work"' EXIT
progress() { printf '%4d s  %s\n' $((SECONDS - begin)) "$*"; }

# fetch DIRECTORY PACKAGE...: Debian 13's packages with all that they depend on, unpacked. The host's own packages and sources do not matter.
fetch() {
    local into=$1 apt="$work/apt" options
    shift
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$into"
    : >"$apt/status"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$apt/sources"
    options=(-o "Dir::Etc::sourcelist=$apt/sources" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
        -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache" -o APT::Architecture=amd64 -o APT::Sandbox::User=root)
    [ -e "$apt/updated" ] || { apt-get "${options[@]}" update -qq && touch "$apt/updated"; } ||
        die "the package lists of Debian $suite could not be fetched from $mirror"
    rm -f "$apt"/cache/archives/*.deb
    apt-get "${options[@]}" install -y -qq --download-only --no-install-recommends "$@" >"$apt/log" 2>&1 ||
        die "$(cat "$apt/log")
could not fetch $* of Debian $suite from $mirror"
    for deb in "$apt"/cache/archives/*.deb; do
        case ${KEEP:-all}:${deb##*/} in
            all:* | "${KEEP:-}:${KEEP:-}"*) dpkg-deb -x "$deb" "$into" || die "cannot unpack $deb" ;;
        esac
    done
}

progress "QEMU"
fetch "$work/qemu" qemu-system-x86 seabios
[ -x "$work/qemu/usr/bin/qemu-system-x86_64" ] || die "Debian $suite's QEMU is not where it was expected"
rm -rf "$work"/qemu/usr/share/{doc,man,locale,icons,mime}

progress "kernel"
KEEP=linux-image-6 fetch "$work/kernel" linux-image-cloud-amd64
release=$(ls "$work/kernel/usr/lib/modules" 2>/dev/null || ls "$work/kernel/lib/modules")
[ -n "$release" ] || die "the kernel package has no modules"
mkdir -p "$work/kernel/usr/lib"
[ -d "$work/kernel/lib/modules" ] && mv "$work/kernel/lib/modules" "$work/kernel/usr/lib/"
cp "$work/kernel/boot/vmlinuz-$release" "$work/vmlinuz" || die "the kernel package has no vmlinuz"
mkdir -p "$work/modules/usr/lib"
mv "$work/kernel/usr/lib/modules" "$work/modules/usr/lib/"

progress "initramfs"
KEEP=busybox-static fetch "$work/busybox" busybox-static
mkdir -p "$work"/initrd.d/{bin,dev,sys,root}
cp "$work/busybox/usr/bin/busybox" "$work/initrd.d/bin/" || die "the package busybox-static has no busybox"
xz -dc "$work/modules/usr/lib/modules/$release/kernel/drivers/block/virtio_blk.ko.xz" >"$work/initrd.d/virtio_blk.ko" ||
    die "the kernel package has no driver of virtio disks"
cat >"$work/initrd.d/init" <<'INIT'
#!/bin/busybox sh
# This kernel has the driver of virtio disks as a module.
busybox() { /bin/busybox "$@"; }
busybox mount -t devtmpfs dev /dev
busybox mount -t sysfs sys /sys
busybox insmod /virtio_blk.ko
disk=''
until [ -n "$disk" ] && [ -b "/dev/$disk" ]; do
    for found in /sys/block/vd*; do
        [ "$(busybox cat "$found/serial" 2>/dev/null)" = root ] && disk=${found##*/}
    done
    [ -n "$disk" ] || busybox usleep 20000
done
busybox mount -t ext4 "/dev/$disk" /root
busybox umount /sys
busybox umount /dev
exec /bin/busybox switch_root /root /sbin/init
INIT
chmod +x "$work/initrd.d/init"
(cd "$work/initrd.d" && find . | cpio --quiet -o -H newc -R 0:0) >"$work/initrd" || die "cpio could not make the initramfs"

progress "root file system of Debian $suite"
ssh-keygen -q -t ed25519 -N '' -C appliance -f "$work/key" || die "ssh-keygen failed"
cat >"$work/setup" <<'SETUP'
#!/bin/sh
# In the new root, whose path is the argument.
set -e
root=$1
mkdir -p "$root/root/.ssh" "$root/var/log/journal" "$root/payload"
chmod 700 "$root/root/.ssh"
chroot "$root" depmod "$(ls "$root/usr/lib/modules")"
chroot "$root" ssh-keygen -A >/dev/null
# ssh answers at once, and by key alone.
printf 'UseDNS no\nPasswordAuthentication no\n' >"$root/etc/ssh/sshd_config.d/appliance.conf"
echo appliance >"$root/etc/hostname"
printf '127.0.0.1 localhost appliance\n' >"$root/etc/hosts"
# Known, so that nothing counts as a first boot; a real machine has one of its own.
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
# The way in for the tests, on a wire of its own: no route, no name server.
cat >"$root/etc/systemd/network/05-mgmt.link" <<'LINK'
[Match]
MACAddress=52:54:00:00:00:99

[Link]
Name=mgmt0
LINK
cat >"$root/etc/systemd/network/05-mgmt.network" <<'NETWORK'
[Match]
Name=mgmt0

[Network]
Address=10.0.2.15/24
LinkLocalAddressing=no
IPv6AcceptRA=no
NETWORK
chroot "$root" systemctl -q enable systemd-networkd.service ssh.service
chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    getty@tty1.service serial-getty@ttyS0.service getty.target systemd-logind.service e2scrub_reap.service \
    systemd-networkd-wait-online.service
echo 'RateLimitBurst=0' | sed '1i [Journal]' >"$root/etc/systemd/journald.conf"
SETUP
chmod +x "$work/setup"
mmdebstrap --quiet --variant=minbase --format=directory --include="$packages" --keyring="$keyring" \
    --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --customize-hook="copy-in $work/modules/usr /" \
    --customize-hook="$work/setup \"\$1\"" --customize-hook="upload $work/key.pub /root/.ssh/authorized_keys" \
    "$suite" "$work/root" "$mirror" || die "mmdebstrap could not make a root file system of Debian $suite"

progress "disk image"
truncate -s 1500M "$work/root.ext4"
mke2fs -q -F -t ext4 -L root -d "$work/root" -E lazy_itable_init=1,lazy_journal_init=1 "$work/root.ext4" || die "mke2fs failed"

rm -f "$target/stamp"
rm -rf "$target/states"
for part in qemu vmlinuz initrd key key.pub root.ext4; do
    rm -rf "${target:?}/$part"
    mv "$work/$part" "$target/$part" || die "cannot write $target/$part"
done
echo "$stamp" >"$target/stamp"
progress "machine of the appliance tests: $target"
