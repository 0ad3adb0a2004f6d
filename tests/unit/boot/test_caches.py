"""Compiled kernels: fetched before the engine starts, stored once by a node that is ready, and never required."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.boot.conftest import NODE, Instance

# S3 as a folder: `s3 cp` from it, `s3api head-object` and `put-object` into it, which fails where the object exists.
BUCKET = """
last=("$@")
case "$1 $2" in
  "s3 cp") cp "{bucket}/${{4#s3://*/}}" "$5" ;;
  "s3api head-object") [ -e "{bucket}/$6" ] ;;
  "s3api put-object") [ ! -e "{bucket}/$6" ] && mkdir -p "{bucket}/bin/caches" && cp "$8" "{bucket}/$6" ;;
esac
"""
KIND = (
    'case "$*" in *api/token*) echo token;; *instance-id*) echo {node};; *instance-type*) echo {kind};; '
    "*) exit 22;; esac"
)


@pytest.fixture
def node(instance: Instance) -> Instance:
    instance.variables["SYNKTI_COMPILE_CACHES"] = "true"
    requirements = instance.root / "opt/synkti/current/requirements"
    requirements.mkdir(parents=True)
    for name in ("python.txt", "engine.txt"):
        (requirements / name).write_text(f"{name} of a release\n")
    (instance.root / "etc/synkti/model.env").write_text("SYNKTI_MODEL_DIR=/m\n")
    (instance.root / "var/lib/synkti-engine").mkdir(parents=True)
    instance.answers("curl", KIND.format(node=NODE, kind="g6.xlarge"))
    instance.answers("aws", BUCKET.format(bucket=instance.root / "bucket"))
    instance.answers("runuser", 'shift 3; exec "$@"')
    (instance.root / "programs/install").write_text('#!/bin/bash\nmkdir -p "${@: -1}"\n')
    (instance.root / "programs/install").chmod(0o755)
    return instance


def compiled(node: Instance) -> Path:
    return node.root / "var/lib/synkti-engine/compiled"


def stored(node: Instance) -> list[str]:
    return sorted(path.name for path in (node.root / "bucket/bin/caches").glob("*"))


def compile_something(node: Instance) -> None:
    folder = compiled(node) / "vllm/torch_compile_cache"
    folder.mkdir(parents=True)
    (folder / "kernel.so").write_bytes(b"\x7fELF")


def test_what_one_node_has_compiled_the_next_one_finds(node: Instance) -> None:
    compile_something(node)
    assert node.run("caches.sh", "store").returncode == 0
    (name,) = stored(node)
    assert name.startswith("g6.xlarge-")
    (compiled(node) / "vllm/torch_compile_cache/kernel.so").unlink()
    for folder in ("vllm/torch_compile_cache", "vllm", ""):
        (compiled(node) / folder).rmdir()
    done = node.run("caches.sh", "fetch")
    assert done.returncode == 0, done.stderr
    assert (compiled(node) / "vllm/torch_compile_cache/kernel.so").read_bytes() == b"\x7fELF"
    assert any(call.startswith("runuser -u synkti-engine -- tar --extract") for call in node.calls), "not as root"


@pytest.mark.parametrize("changed", ["engine.txt", "python.txt", "model", "driver", "type"])
def test_nothing_is_shared_between_nodes_that_compile_something_else(changed: str, node: Instance) -> None:
    compile_something(node)
    assert node.run("caches.sh", "store").returncode == 0
    if changed == "model":
        node.variables["SYNKTI_MODEL_SHA256"] = "b" * 64
    elif changed == "driver":
        (node.root / "proc/driver/nvidia").mkdir(parents=True)
        (node.root / "proc/driver/nvidia/version").write_text("NVRM version: 600\n")
    elif changed == "type":
        node.answers("curl", KIND.format(node=NODE, kind="g5.xlarge"))
    else:
        (node.root / "opt/synkti/current/requirements" / changed).write_text("another\n")
    assert node.run("caches.sh", "store").returncode == 0
    assert len(stored(node)) == 2


def test_a_stored_object_is_not_replaced(node: Instance) -> None:
    compile_something(node)
    node.run("caches.sh", "store")
    before = len([call for call in node.calls if "put-object" in call])
    assert node.run("caches.sh", "store").returncode == 0
    puts = [call for call in node.calls if "put-object" in call]
    assert len(puts) == before == 1
    assert "--if-none-match *" in puts[0], "the role may write only like this"


def test_a_node_without_a_stored_object_compiles(node: Instance) -> None:
    done = node.run("caches.sh", "fetch")
    assert done.returncode == 0
    assert "its engine compiles them" in done.stdout
    assert not compiled(node).exists()


def test_a_damaged_object_is_left_out(node: Instance) -> None:
    compile_something(node)
    node.run("caches.sh", "store")
    (path,) = (node.root / "bucket/bin/caches").iterdir()
    path.write_bytes(b"no archive")
    node.shell("-c", f"rm -r {compiled(node)}")
    assert node.run("caches.sh", "fetch").returncode == 0
    assert not compiled(node).exists()


def test_too_much_is_not_stored(node: Instance) -> None:
    compile_something(node)
    (node.root / "programs/du").write_text("#!/bin/bash\necho 4000\n")
    (node.root / "programs/du").chmod(0o755)
    assert "not shared: 4000 MiB" in node.run("caches.sh", "store").stdout
    assert stored(node) == []


def test_nothing_is_shared_by_default(node: Instance) -> None:
    node.variables["SYNKTI_COMPILE_CACHES"] = "false"
    compile_something(node)
    assert node.run("caches.sh", "store").returncode == node.run("caches.sh", "fetch").returncode == 0
    assert node.calls == []
