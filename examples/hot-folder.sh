#!/bin/sh
# Copies every new picture out as it appears: hot-folder.sh MOUNT TARGET [HOW MANY]
# Needs inotifywait (package inotify-tools).
set -eu
mount=$1 target=$2 left=${3:--1}
mkdir -p "$target"
inotifywait -m -q -r -e close_write --format '%w%f' "$mount/requests" | while IFS= read -r path; do
	case $path in
	*.png | *.jpg | *.webp)
		cp "$path" "$target/"
		echo "$path"
		left=$((left - 1))
		[ "$left" = 0 ] && pkill -P $$ inotifywait
		;;
	esac
done
