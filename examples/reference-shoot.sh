#!/bin/sh
# The same product in several scenes: reference-shoot.sh MOUNT NAME PICTURE SCENE...
# Every picture in references/ is a reference image of each prompt beside it.
set -eu
mount=$1 folder=$1/requests/$2 picture=$3
shift 3
mkdir -p "$folder/references"
cp "$picture" "$folder/references/"
printf 'size: 1536x1024\nquality: high\n' >"$folder/defaults.yaml"
n=0
for scene; do
	n=$((n + 1))
	printf 'The product of the reference picture, %s\n' "$scene" >"$folder/scene-$n.prompt"
done
for prompt in "$folder"/*.prompt; do
	cat "${prompt%.prompt}.wait"
done
