#!/bin/sh
# Installs the package in a folder, with its extras, into the image's python3: install.sh FOLDER "extra,extra"
# Into python3 itself and no virtual environment, since Determined starts tasks with `python3 -m pip install --user`.
set -eu
umask 022 # a cluster runs tasks as any user, so all must be able to read what root installs

cd "$1"
pip="python3 -m pip install --no-cache-dir --root-user-action=ignore"

# A torch that the base image brings fits its CUDA: it stays, and its version takes the place of the tested one.
if own=$(python3 -c 'from importlib.metadata import version; print(version("torch"))' 2> /dev/null); then
    echo "the base image's torch $own stays"
    sed "s/^torch==.*/torch==$own/" constraints.txt > constraints.image.txt
else
    cp constraints.txt constraints.image.txt
    $pip -c constraints.image.txt torch
fi
$pip -c constraints.image.txt ".[$2]"
