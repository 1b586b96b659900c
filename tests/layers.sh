#!/bin/sh
# Holds the rules of the layers (ARCHITECTURE.md): a folder of src sees only itself and the folders
# before it, and each third-party library is seen by the folders that are named for it.
cd "${1:-$(dirname "$0")/..}" || exit 2
bad=0

complain() {
	echo "$1" >&2
	bad=1
}

# allowed FOLDER: the folders that it may include.
allowed() {
	case $1 in
	base) echo base ;;
	local) echo base local ;;
	db) echo base db ;;
	wire) echo base wire ;;
	prompt) echo base wire prompt ;;
	catalogue) echo base db wire prompt catalogue ;;
	net) echo base wire net ;;
	engine) echo base wire prompt catalogue net engine ;;
	mount) echo base wire prompt catalogue engine mount ;;
	hub) echo base db wire hub ;;
	*) complain "src/$1 is no known folder" ;;
	esac
}

# library HEADER FOLDER...: only these may include it.
library() {
	header=$1
	shift
	for file in $(grep -rlE "^#include <$header" src); do
		folder=$(echo "$file" | cut -d/ -f2)
		case " $* " in
		*" $folder "*) ;;
		*) complain "$file includes <$header…>, which belongs to: $*" ;;
		esac
	done
}

for dir in src/*/; do
	folder=$(basename "$dir")
	may=" $(allowed "$folder") "
	for file in "$dir"*.[ch]; do
		for seen in $(sed -n 's/^#include "\([^"/]*\)\/.*/\1/p' "$file" | sort -u); do
			case $may in
			*" $seen "*) ;;
			*) complain "$file includes $seen/, which is not below $folder" ;;
			esac
		done
		grep -nE '^#include "[^/"]*"' "$file" && complain "$file: name the folder in an #include"
	done
done

library sqlite3 db
library jansson wire
library yaml prompt
library curl/ net
library fuse mount
library microhttpd hub
library cairo hub
library png hub
library zlib hub
library sodium engine hub
library openssl engine

[ "$bad" = 0 ] && echo "layers: the rules hold"
exit "$bad"
