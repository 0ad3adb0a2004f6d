#!/bin/bash
# install.sh RELEASE: creates the environments of the agent and of vLLM from the release's lock files, with verified
# hashes. An environment is named after its lock file's hash and is complete when it has its stamp; an image built with
# the same lock files already contains it.
#
# The packages come from the wheelhouse in the models bucket, which `synkti wheelhouse` makes, and so do uv and CPython:
# then nothing is downloaded from outside the region. Hashes are compared with those of the release, so that
# whoever can write to the bucket cannot change what is installed. Without a wheelhouse the package index is used.
set -euo pipefail
release=$1
# shellcheck source=stacks/boot/instance.sh
. "$(dirname "$0")/instance.sh"
requirements=$release/requirements
archive=$(cut -d ' ' -f 3 "$requirements/python.txt") # such as 20261110/cpython-3.12.16+20261110-x86_64-...tar.gz
version=${archive#*cpython-}
version=${version%%+*}
scratch=$(fast_disk)/packages
export UV_PYTHON_INSTALL_DIR=$home/python UV_NO_CONFIG=1 UV_NO_CACHE=1

wrong_image() {
  log "this image cannot run a node: $*"
  exit 1
}

damaged() {
  log "$* of the wheelhouse cannot be installed (see above); synkti wheelhouse --replace makes it again"
  exit 65
}

digest() { cat "$@" | sha256sum | cut -c1-16; }

fetch() { # fetch SET FOLDER: copies a set of packages from the wheelhouse. Fails where the bucket has no complete one.
  local source=s3://$SYNKTI_MODELS_BUCKET/bin/wheels/$1 wait status
  for wait in 1 2 4 0; do
    status=0
    aws s3 ls "$source/manifest.sha256" >/dev/null || status=$? # 1: there is no such object
    [ "$status" -gt 1 ] || break
    sleep "$wait"
  done
  case $status in
    0) ;;
    1) return 1 ;;
    *)
      log "the models bucket cannot be listed"
      exit 69 # synkti-boot.service retries
      ;;
  esac
  rm -rf "$2"
  mkdir -p "$2"
  retry 4 aws s3 cp --recursive --only-show-errors "$source/" "$2" || exit 69
}

install_tools() { # Installs uv, and the Python of all environments if the wheelhouse has it.
  local folder tools=$scratch/tools wheel
  folder=$home/env/uv-$(digest "$requirements/bootstrap.txt" "$requirements/python.txt")
  if [ ! -f "$folder/.installed" ]; then
    log "installing uv"
    rm -rf "$folder"
    if fetch "tools-$(digest "$requirements/bootstrap.txt" "$requirements/python.txt")" "$tools"; then
      (cd "$tools" && sha256sum --check --quiet "$requirements/python.txt") || damaged "$archive"
      wheel=$(find "$tools" -name 'uv-*.whl')
      [ -f "$wheel" ] || damaged uv
      grep --quiet "sha256:$(sha256sum <"$wheel" | cut -c1-64)" "$requirements/bootstrap.txt" || damaged "$wheel"
      # A wheel is a zip file, which every Python can unpack.
      python3 -m zipfile -e "$wheel" "$tools/uv"
      install -D -m 0755 "$tools"/uv/uv-*.data/scripts/uv "$folder/bin/uv"
      "$folder/bin/uv" python install --quiet --offline --no-bin --mirror "file://$tools" "$version" || damaged "$archive"
      rm -rf "$tools"
    else
      log "the models bucket has no wheelhouse for this release; uv, Python and packages come from outside"
      python3 -m venv "$folder" || wrong_image "its Python has no venv, and there is no wheelhouse"
      retry 4 "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        --require-hashes --requirement "$requirements/bootstrap.txt" || exit 69
    fi
    touch "$folder/.installed"
  fi
  ln -sfn "$folder" "$home/uv"
}

environment() { # environment NAME: makes the environment of the lock file NAME.txt
  local name=$1 lock=$requirements/$1.txt folder wheels=$scratch/$1 python=${version%.*} install
  folder=$home/env/$name-$(digest "$lock" "$requirements/python.txt")
  if [ ! -f "$folder/.installed" ]; then
    log "installing $name"
    rm -rf "$folder"
    for managed in "$home/python/cpython-$version"-*/bin/python3; do
      [ ! -x "$managed" ] || python=$managed
    done
    "$home/uv/bin/uv" venv --quiet --python "$python" "$folder" ||
      wrong_image "it has no Python ${version%.*}, and none can be downloaded"
    install=("$home/uv/bin/uv" pip install --quiet --require-hashes --python "$folder/bin/python")
    if fetch "$name-$(digest "$lock")" "$wheels"; then
      "${install[@]}" --offline --no-index --find-links "$wheels" --requirement "$lock" || damaged "$name"
      rm -rf "$wheels"
    else
      retry 4 "${install[@]}" --requirement "$lock" || exit 69 # the package index is unavailable
    fi
    touch "$folder/.installed"
  fi
  ln -sfn "$folder" "$home/$name"
}

# Triton compiles C against Python's headers when the engine starts.
command -v cc >/dev/null || command -v gcc >/dev/null || wrong_image "it has no C compiler, which Triton needs"
mkdir -p "$home/env"
install_tools
environment agent
environment engine
headers=$("$home/engine/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -f "$headers/Python.h" ] || wrong_image "there is no $headers/Python.h, which Triton needs (python3-dev)"
# The agent's own code is imported through this link, which always points to the current release.
echo "/opt/synkti/current" >"$("$home/agent/bin/python" -c 'import site; print(site.getsitepackages()[0])')/synkti.pth"
