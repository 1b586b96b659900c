#!/bin/sh
# A guided minute on a real mount with the embedded hub: make demo. DEMO_KEEP=1 leaves it mounted.
set -eu
build=${IMAGEHUBFS_BUILD:-build}
dir=$(mktemp -d "${TMPDIR:-/tmp}/imagehubfs-demo.XXXXXX")
mkdir "$dir/mnt"

finish() {
	status=$?
	if [ -n "${DEMO_KEEP:-}" ] && [ "$status" = 0 ]; then
		echo
		echo "Still mounted on $dir/mnt; unmount with: fusermount3 -u $dir/mnt"
		exit 0
	fi
	cd /
	# It is busy for a moment while a new name is announced, and ends a moment after it is unmounted.
	for _ in $(seq 100); do
		fusermount3 -u "$dir/mnt" 2>/dev/null || mountpoint -q "$dir/mnt" || rm -rf "$dir" 2>/dev/null || true
		[ -e "$dir" ] || break
		sleep 0.1
	done
	exit "$status"
}
trap finish EXIT

say() {
	printf '\n\033[1m$ %s\033[0m\n' "$*"
}

say "imagehubfs --local mnt"
"$build/imagehubfs" --local --state "$dir/state" --cache "$dir/cache" "$dir/mnt"
cd "$dir/mnt"
for _ in $(seq 100); do
	cat credits >/dev/null 2>&1 && break
	sleep 0.2
done
say "cat credits"
cat credits
say "echo 'a lighthouse at dusk' > requests/lighthouse.prompt"
echo 'a lighthouse at dusk' >requests/lighthouse.prompt
say "cat requests/lighthouse.wait"
cat requests/lighthouse.wait
say "find . -type f | sort"
find . -type f | sort
say "cat generations/*/log"
cat generations/*/log
say "file requests/lighthouse.png"
bytes=$(wc -c <requests/lighthouse.png)
# The width and the height stand at byte 16 of a PNG.
pixels=$(od -An -tu1 -j16 -N8 requests/lighthouse.png |
	awk '{print (($1*256+$2)*256+$3)*256+$4 "x" (($5*256+$6)*256+$7)*256+$8}')
echo "requests/lighthouse.png: PNG, $pixels pixels, $bytes bytes"
say "cat credits"
cat credits
