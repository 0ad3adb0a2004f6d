#!/bin/bash
# install.sh RELEASE: creates the environments of the agent and of vLLM from the release's lock files, with verified
# hashes. An environment is named after its lock file's hash and is complete when it has its stamp; an image built with
# the same lock files already contains it.
set -euo pipefail
release=$1
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"

environment() { # environment NAME LOCK INSTALLER...: calls the installer with the environment's Python and the lock
  local name=$1 lock=$release/requirements/$2.txt folder
  folder=$home/env/$name-$(sha256sum <"$lock" | cut -c1-16)
  shift 2
  if [ ! -f "$folder/.installed" ]; then
    log "installing $name"
    rm -rf "$folder"
    python3 -m venv "$folder"
    retry 4 "$@" "$folder/bin/python" "$lock" || exit 69 # the package index is unavailable: synkti-boot.service retries
    touch "$folder/.installed"
  fi
  ln -sfn "$folder" "$home/$name"
}

with_pip() { "$1" -m pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes --requirement "$2"; }
with_uv() { "$home/uv/bin/uv" pip install --quiet --no-cache --python "$1" --require-hashes --requirement "$2"; }

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  log "this image's Python is older than 3.11; the agent cannot run on it"
  exit 1
}
mkdir -p "$home/env"
environment uv bootstrap with_pip
environment agent agent with_uv
environment engine engine with_uv
# The agent's own code is imported through this link, which always points to the current release.
echo "/opt/synkti/current" >"$("$home/agent/bin/python" -c 'import site; print(site.getsitepackages()[0])')/synkti.pth"
