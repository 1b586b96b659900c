#!/bin/sh
# One picture for each line of a text file: batch.sh MOUNT FOLDER LINES.txt
# Saving the same lines again costs nothing: the same text in the same file is no new request.
set -eu
mount=$1 folder=$1/requests/$2 lines=$3
mkdir -p "$folder"
n=0
while IFS= read -r line || [ -n "$line" ]; do
	[ -n "$line" ] || continue
	n=$((n + 1))
	printf '%s\n' "$line" >"$folder/$(printf %03d "$n").prompt"
done <"$lines"

failed=0
for prompt in "$folder"/*.prompt; do
	cat "${prompt%.prompt}.wait" >/dev/null || failed=$((failed + 1))
	cat "${prompt%.prompt}.status"
done
echo "balance: $(cat "$mount/credits")"
[ "$failed" = 0 ]
