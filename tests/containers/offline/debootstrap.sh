#!/bin/sh
# debootstrap.sh SUITE PACKAGES AUTHORITIES: a Debian with these packages as a tar on standard output.
#
# It is made in memory, in a mount namespace of its own: dpkg waits for the disk at every file, and
# nothing is left behind, however this ends.
set -eu
if [ "${4:-}" != apart ]; then
    exec unshare --mount "$0" "$@" apart
fi

place=$(mktemp --directory)
rmdir_later() { cd /; umount "$place" && rmdir "$place"; }
trap rmdir_later EXIT
mount -t tmpfs -o size=2g none "$place"
debootstrap --variant=minbase --include="$2" "$1" "$place/root" >&2
if [ -e "$3" ]; then
    cp "$3" "$place/root/etc/ssl/certs/ca-certificates.crt"
fi
# Not for a machine that may lose its power: it saves dpkg the same waits later on.
echo force-unsafe-io > "$place/root/etc/dpkg/dpkg.cfg.d/unsafe"
tar --create --directory="$place/root" --exclude='./dev/*' --exclude='./usr/share/doc/*' \
    --exclude='./usr/share/man/*' --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' .
