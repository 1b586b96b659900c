# A shell function: source this, then   picture 'a cat on a sofa' > cat.png
# $IMAGEHUB_MOUNT is where imagehubfs is mounted.
picture() {
	_name=$(printf '%s' "$1" | cksum | tr -c 0-9 _)
	_stem=${IMAGEHUB_MOUNT:?is not set}/requests/$_name
	printf '%s\n' "$1" >"$_stem.prompt" &&
		cat "$_stem.wait" >&2 &&
		cat "$_stem.png"
}
