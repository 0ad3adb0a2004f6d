#!/bin/bash
# install.sh RELEASE: the environments of the agent and of vLLM, from the release's lock files, every hash checked.
# Idempotent: an environment is named after its lock file's hash, and is there when its stamp is. An image that was
# made with the same lock files has them already.
set -euo pipefail
release=$1
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

environment() { # environment NAME LOCK PROGRAM...: the program that installs; $folder and $lock are its arguments
  local name=$1 lock=$release/requirements/$2.txt folder
  folder=$home/env/$name-$(sha256sum <"$lock" | cut -c1-16)
  shift 2
  if [ ! -f "$folder/.installed" ]; then
    say "installing $name"
    rm -rf "$folder"
    python3 -m venv "$folder"
    again 4 "$@" "$folder/bin/python" "$lock" || exit 69 # the index is away: synkti-boot.service comes back
    touch "$folder/.installed"
  fi
  ln -sfn "$folder" "$home/$name"
}

with_pip() { "$1" -m pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes --requirement "$2"; }
with_uv() { "$home/uv/bin/uv" pip install --quiet --no-cache --python "$1" --require-hashes --requirement "$2"; }

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  say "this image's Python is older than 3.11; the agent cannot run on it"
  exit 1
}
mkdir -p "$home/env"
environment uv bootstrap with_pip
environment agent agent with_uv
environment engine engine with_uv
# The agent itself is what the link leads to, whatever environment it was installed beside.
echo "/opt/synkti/current" >"$("$home/agent/bin/python" -c 'import site; print(site.getsitepackages()[0])')/synkti.pth"
