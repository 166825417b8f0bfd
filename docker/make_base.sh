#!/usr/bin/env bash
# A base image where no registry can be reached: Debian 12 with its Python 3.11 and pip, from a Debian mirror.
#   sudo docker/make_base.sh localhost/python-base [MIRROR]
# It needs debootstrap and buildah, and root. For Docker: buildah push localhost/python-base docker-daemon:python-base:latest
set -euo pipefail

image=${1:?name the image to make}
mirror=${2:-http://deb.debian.org/debian}

root=$(mktemp -d)
container=
trap '[ -z "$container" ] || buildah rm "$container" > /dev/null; rm -rf "$root"' EXIT

debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip bookworm "$root/debian" "$mirror" >&2
rm -rf "$root"/debian/var/lib/apt/lists/* "$root"/debian/var/cache/apt/archives/*.deb
container=$(buildah from scratch)
buildah add --quiet "$container" "$root/debian" / > /dev/null
buildah config --cmd python3 --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet "$container" "$image"
