"""Test `synkti keys`: of a file, of a deployed cluster's secret, with bad input, and with edits at the same time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest

from cli.adapters.key_documents import FileKeyDocuments, SecretKeyDocuments
from cli.core.key_edits import (
    FORGOTTEN_AFTER_S,
    EditRefused,
    KeyRequest,
    add_key,
    parse_duration,
    revoke_key,
    rotate_key,
)
from cli.errors import Failed
from cli.exit_codes import ExitCode
from node_agent.adapters.key_stores import FileKeyStore
from node_agent.core.access.caller import NO_LIMITS, Caller, KeyLimits, Scope
from node_agent.core.access.client_key import ClientKey, make_secret, parse_key
from node_agent.core.access.key_document import KeyDocument, parse_key_document
from node_agent.core.access.key_ring import KeyRefusal, KeyRing
from tests.unit.cli.conftest import DeployedFleet, Run
from tests.unit.core.access.keys import NOW, document, entry, key_number

SECRET = "synkti/client-keys"
CHAT = KeyRequest("chat", frozenset({Scope.INFERENCE}), NO_LIMITS)


def _identify(path: Path, key: str, now: float | None = None) -> Caller | KeyRefusal:
    """Recognize a key as a node does that reads the file."""
    sent = parse_key(key.encode())
    assert sent is not None
    return KeyRing(parse_key_document(FileKeyStore(path).read_now())).identify(sent, now or time.time())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_printed_once_and_a_node_accepts_it(run: Run, file: Path) -> None:
    made = run("keys", "create", "chat", "--file", file)
    assert made.code == 0
    key = made.out.strip()
    assert "printed only now" in made.err
    caller = _identify(file, key)
    assert isinstance(caller, Caller)
    assert caller.name == "chat"
    assert caller.scopes == {Scope.INFERENCE, Scope.FLEET}
    assert file.stat().st_mode & 0o777 == 0o600
    listed, as_json = run("keys", "list", "--file", file), run("keys", "list", "--file", file, "--json")
    secret = key.rpartition("-")[2]
    stored = file.read_text()
    digest = json.loads(stored)["keys"][0]["hash"]
    for text in (listed.out + listed.err, as_json.out):
        assert "chat" in text
        assert secret not in text
        assert digest not in text
    assert secret not in stored


def test_scopes_limits_and_an_end_are_in_the_document(run: Run, file: Path) -> None:
    made = run(
        "keys", "create", "batch", "--scope", "inference", "--scope", "metrics", "--requests-per-minute", "60",
        "--tokens-per-minute", "100000", "--streams", "8", "--expires", "30d", "--file", file, "--json",
    ).document  # fmt: skip
    assert made["scopes"] == ["inference", "metrics"]
    caller = _identify(file, made["key"])
    assert isinstance(caller, Caller)
    assert caller.limits == KeyLimits(60, 100_000, 8)
    assert _identify(file, made["key"], time.time() + 31 * 86_400) is KeyRefusal.EXPIRED
    (row,) = run("keys", "list", "--file", file, "--json").document["keys"]
    assert (row["streams"], row["status"]) == (8, "in force")
    assert "key" not in row


def test_a_revoked_key_is_refused_and_its_name_is_free_again(run: Run, file: Path) -> None:
    key = run("keys", "create", "chat", "--file", file).out.strip()
    assert run("keys", "revoke", "chat", "--file", file).code == 0
    assert _identify(file, key) is KeyRefusal.REVOKED
    again = run("keys", "revoke", "chat", "--file", file)
    assert again.code == ExitCode.USAGE
    assert "synkti keys list" in again.err
    by_id = run("keys", "revoke", key.split("-")[2], "--file", file)
    assert "is revoked already" in by_id.err
    assert run("keys", "create", "chat", "--file", file).code == 0
    statuses = [each["status"] for each in run("keys", "list", "--file", file, "--json").document["keys"]]
    assert statuses == ["revoked", "in force"]


def test_a_rotation_keeps_the_id_and_both_secrets_for_a_while(run: Run, file: Path) -> None:
    old = run("keys", "create", "chat", "--file", file).out.strip()
    new = run("keys", "rotate", "chat", "--overlap", "1h", "--file", file).out.strip()
    assert old != new
    assert old.split("-")[2] == new.split("-")[2]
    assert _identify(file, old) == _identify(file, new)
    assert _identify(file, old, time.time() + 3601) is KeyRefusal.EXPIRED
    now = run("keys", "rotate", "chat", "--overlap", "0", "--file", file).out.strip()
    assert _identify(file, new) is KeyRefusal.UNKNOWN
    assert isinstance(_identify(file, now), Caller)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("create", "a b"), "no key's name"),
        (("create", ""), "no key's name"),
        (("create", "4f1c09d2a7be"), "form of a key's id"),
        (("create", "chat", "--scope", "root"), "root"),
        (("create", "chat", "--streams", "0"), "greater than or equal to 1"),
        (("create", "chat", "--requests-per-minute", "-1"), "greater than or equal to 1"),
        (("create", "chat", "--tokens-per-minute", "many"), "valid integer"),
        (("create", "chat", "--expires", "tomorrow"), "no duration"),
        (("create", "chat", "--expires", "0d"), "no duration"),
        (("revoke", "nobody"), "no key in force"),
        (("rotate", "nobody"), "no key in force"),
        (("rotate", "nobody", "--overlap", "1"), "no duration"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(run: Run, file: Path, argv: tuple[str, ...], message: str) -> None:
    done = run("keys", *argv, "--file", file)
    assert done.code == ExitCode.USAGE
    assert message in done.err
    assert not file.exists()


def test_a_name_in_force_is_not_given_twice(run: Run, file: Path) -> None:
    run("keys", "create", "chat", "--file", file)
    again = run("keys", "create", "chat", "--file", file)
    assert again.code == ExitCode.USAGE
    assert "rotate" in again.err


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"version":1,"pepper":"' + "p" * 64 + '","keys":[7]}'])
def test_a_file_that_is_no_key_document_is_neither_read_nor_replaced(run: Run, file: Path, content: str) -> None:
    file.write_text(content)
    for argv in (("list",), ("create", "chat"), ("revoke", "chat")):
        done = run("keys", *argv, "--file", file)
        assert done.code == ExitCode.FAILED
        assert "no key document" in done.err
    assert file.read_text() == content


def test_a_missing_file_is_not_found_by_list_and_made_by_create(run: Run, file: Path) -> None:
    assert run("keys", "list", "--file", file).code == ExitCode.NOT_FOUND
    assert run("keys", "create", "chat", "--file", file / "x" / "y").code == ExitCode.FAILED


@pytest.fixture
def secret(fleet: DeployedFleet) -> Any:
    return boto3.client("secretsmanager")


def _stored(client: Any) -> KeyDocument:
    return parse_key_document(
        client.get_secret_value(SecretId=SECRET, VersionStage="AWSCURRENT")["SecretString"].encode()
    )


def test_the_keys_of_a_cluster_are_in_its_secret(run: Run, secret: Any) -> None:
    made = run("keys", "create", "chat")
    assert made.code == 0
    sent = parse_key(made.out.strip().encode())
    assert sent is not None
    assert isinstance(KeyRing(_stored(secret)).identify(sent, time.time()), Caller)
    assert run("keys", "list").table[1][:3] == ["chat", sent.key_id, "in force"]
    assert run("keys", "revoke", "chat").code == 0
    assert KeyRing(_stored(secret)).identify(sent, time.time()) is KeyRefusal.REVOKED
    stages = [
        stage for each in secret.list_secret_version_ids(SecretId=SECRET)["Versions"] for stage in each["VersionStages"]
    ]
    assert sorted(stages) == ["AWSCURRENT", "AWSPREVIOUS"], "no label of an edit is left"


def test_a_cluster_without_the_secret_is_not_found(run: Run, fleet: DeployedFleet) -> None:
    boto3.client("secretsmanager").delete_secret(SecretId=SECRET, ForceDeleteWithoutRecovery=True)
    done = run("keys", "list")
    assert done.code == ExitCode.NOT_FOUND
    assert "api_keys = true" in done.err


def _adding(key: ClientKey, name: str, before: Callable[[], None] = lambda: None) -> Callable[[KeyDocument], Any]:
    def change(keys: KeyDocument) -> tuple[KeyDocument, None]:
        before()
        request = KeyRequest(name, CHAT.scopes, NO_LIMITS)
        return add_key(keys, request, key, time.time()), None

    return change


def test_of_two_edits_at_once_both_take_effect(secret: Any) -> None:
    documents = SecretKeyDocuments(secret, SECRET)
    others = [key_number(2), key_number(3)]

    def another_edit() -> None:
        if others:
            key = others.pop()
            documents.edit(_adding(key, f"other-{key.key_id}"))

    documents.edit(_adding(key_number(1), "mine", another_edit))
    assert {each.key_id for each in _stored(secret).keys} == {key_number(n).key_id for n in (1, 2, 3)}


def test_an_edit_that_others_overtake_again_and_again_gives_up(secret: Any) -> None:
    documents, numbers = SecretKeyDocuments(secret, SECRET), iter(range(10, 100))

    def another_edit() -> None:
        key = key_number(next(numbers))
        documents.edit(_adding(key, f"other-{key.key_id}"))

    with pytest.raises(Failed, match="changed by others"):
        documents.edit(_adding(key_number(1), "mine", another_edit))
    assert key_number(1).key_id not in {each.key_id for each in _stored(secret).keys}


def test_edits_of_a_file_wait_for_each_other(file: Path) -> None:
    def edit(number: int) -> None:
        FileKeyDocuments(file, "p" * 64).edit(_adding(key_number(number), f"key-{number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(edit, range(1, 25)))
    assert len(FileKeyDocuments(file, "").read().keys) == 24


def test_a_full_document_is_refused_with_advice() -> None:
    keys = document(*(entry(key_number(n), "n" * 60 + str(n), limits=KeyLimits(60, 1_000, 8)) for n in range(256)))
    with pytest.raises(EditRefused, match="no room") as refused:
        add_key(keys, CHAT, make_secret("f00000000000", b"x" * 32), NOW)
    assert "revoke" in refused.value.advice


def test_a_key_that_ended_long_ago_leaves_the_document_at_the_next_edit() -> None:
    ended = NOW - FORGOTTEN_AFTER_S
    keys = document(
        entry(key_number(1), "gone", revoked=ended),
        entry(key_number(2), "late", expires=ended + 1),
        entry(key_number(3), "live"),
    )
    after, _ = revoke_key(keys, "live", NOW)
    assert [each.name for each in after.keys] == ["late", "live"]


def test_a_key_that_has_ended_is_not_rotated() -> None:
    key = key_number(1)
    keys = document(entry(key, expires=NOW - 1))
    with pytest.raises(EditRefused, match="not in force"):
        rotate_key(keys, key.key_id, make_secret(key.key_id, b"x" * 32), NOW, 60.0)


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("90m", 5400), ("12h", 43_200), ("30d", 2_592_000)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "0s", "3651d", "9999999999s", "30D", "1w"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)
