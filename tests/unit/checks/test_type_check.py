"""A fresh checkout begins with mypy's cache of another; one with a cache of its own keeps it."""

from __future__ import annotations

from pathlib import Path

from checks.type_check import check_types


def text(folder: Path) -> str | None:
    file = folder / "3.11" / "cache.db"
    return file.read_text() if file.exists() else None


def mypy(own: Path, found: list[str | None], code: int = 0, writes: str = "checked") -> int:
    """Play mypy: note the cache that it begins with, and leave another."""
    found.append(text(own))
    (own / "3.11").mkdir(parents=True, exist_ok=True)
    (own / "3.11" / "cache.db").write_text(writes)
    return code


def test_the_next_fresh_checkout_begins_with_the_cache_of_the_last(tmp_path: Path) -> None:
    shared, found = tmp_path / "cache" / "mypy", list[str | None]()
    first, second = tmp_path / "first", tmp_path / "second"
    assert check_types(first, shared, lambda: mypy(first, found, writes="first")) == 0
    assert check_types(second, shared, lambda: mypy(second, found, writes="second")) == 0
    assert found == [None, "first"]
    assert text(shared) == "second"


def test_a_checkout_keeps_its_own_cache(tmp_path: Path) -> None:
    shared, own, found = tmp_path / "shared", tmp_path / "own", list[str | None]()
    check_types(own, shared, lambda: mypy(own, found, writes="own"))
    mypy(shared, [], writes="another's")
    check_types(own, shared, lambda: mypy(own, found, writes="own again"))
    assert found == [None, "own"]
    assert text(shared) == "another's", "only a fresh checkout replaces what others begin with"


def test_a_run_that_finds_errors_shares_nothing(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    assert check_types(own, shared, lambda: mypy(own, [], code=1)) == 1
    assert not shared.exists()


def test_what_an_interrupted_copy_left_is_no_cache(tmp_path: Path) -> None:
    shared, own, found = tmp_path / "shared", tmp_path / "own", list[str | None]()
    mypy(tmp_path / "own.part", [], writes="half")
    mypy(shared, [], writes="whole")
    check_types(own, shared, lambda: mypy(own, found))
    assert found == ["whole"]
