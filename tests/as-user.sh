#!/bin/sh
# as-user.sh COMMAND...: runs it as an ordinary user who may mount, which is what users are and root is not.
#
# Root becomes one: a user of its own, with a home, who may open a /dev/fuse of its own. Both are only seen in
# a mount namespace that ends with COMMAND; nothing of the system is changed. The user works on a copy of the
# tree, as root's may be closed to others, with a TMPDIR of its own; $IMAGEHUBFS_BUILD (default: build) is
# found there as well, and $SMALL_DISK is a file system of 4 MiB. Whoever is no root just runs COMMAND.
# Exits with COMMAND's status, or with 77 where such a namespace cannot be made.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=${IMAGEHUBFS_BUILD:-$root/build}

no() {
	echo "as-user.sh: $*" >&2
	exit 77
}

if [ "$(id -u)" != 0 ]; then
	cd "$root"
	exec "$@"
fi

if [ "${AS_USER_DIR:-}" = "" ]; then
	dir=$(mktemp -d "${TMPDIR:-/tmp}/user.XXXXXX")
	trap 'rm -rf "$dir"' EXIT
	chmod 755 "$dir"
	unshare -m --propagation slave true 2>/dev/null || no "no mount namespace can be made here"
	AS_USER_DIR=$dir unshare -m --propagation slave sh "$0" "$@"
	exit
fi

# In the namespace. It has a copy of every mount there is: that of an imagehubfs would keep it alive after it
# has been unmounted.
dir=$AS_USER_DIR
unset AS_USER_DIR
awk '$3 == "fuse.imagehubfs" { print $2 }' /proc/self/mounts | while read -r mounted; do
	umount -l "$(printf '%b' "$mounted")" 2>/dev/null || true # ended meanwhile
done
id=1234
while getent passwd $id || getent group $id; do id=$((id + 1)); done >/dev/null
name=user$id

mkdir "$dir/own" "$dir/tree" "$dir/home" "$dir/tmp" "$dir/disk" "$dir/${build##*/}"
mount -t tmpfs -o mode=755 none "$dir/own"
mount -t tmpfs -o "size=4m,mode=700,uid=$id,gid=$id" none "$dir/disk"
mknod -m 666 "$dir/own/fuse" c 10 229 && mount --bind "$dir/own/fuse" /dev/fuse &&
	: <>/dev/fuse || no "no /dev/fuse of one's own can be made here"
{ getent passwd; echo "$name:x:$id:$id:An ordinary user:$dir/home:/bin/bash"; } >"$dir/own/passwd"
{ getent group; echo "$name:x:$id:"; } >"$dir/own/group"
mount --bind "$dir/own/passwd" /etc/passwd
mount --bind "$dir/own/group" /etc/group

for part in Makefile README.md src tests examples bench; do cp -r "$root/$part" "$dir/tree"; done
cp "$build/imagehubfs" "$build/imagehubd" "$dir/${build##*/}"
chmod -R a+rX "$dir/tree" "$dir/${build##*/}"
chown "$id:$id" "$dir/home" "$dir/tmp"

# Of root's environment what the tests are told by remains, and nothing that names root or its folders.
unset MAIL XDG_CONFIG_HOME XDG_STATE_HOME XDG_CACHE_HOME XDG_DATA_HOME XDG_RUNTIME_DIR SUDO_USER SUDO_UID SUDO_GID
export HOME="$dir/home" TMPDIR="$dir/tmp" USER=$name LOGNAME=$name SHELL=/bin/bash PYTHONDONTWRITEBYTECODE=1
export IMAGEHUBFS_BUILD="$dir/${build##*/}" SMALL_DISK="$dir/disk" GCOV_PREFIX="$dir/tmp"
umask 022
cd "$dir/tree"
exec setpriv --reuid $id --regid $id --clear-groups --inh-caps=-all "$@"
