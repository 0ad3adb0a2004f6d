"""The files of the package: the page's routes and files agree, and the page loads nothing else."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from node_agent.adapters.package_files import read_instance_prices, read_page
from node_agent.core.openai.routes import PAGE_FILES
from node_agent.core.snapshot.cost import NO_PRICES

FOLDER = Path(__file__).parents[3] / "node_agent" / "ui"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
MOST_BYTES = 64 * 1024


def test_each_route_has_a_file_and_each_file_a_route() -> None:
    assert {file.name for file in read_page().values()} == set(TEXTS) == set(PAGE_FILES.values())
    assert sum(map(len, TEXTS.values())) < MOST_BYTES, "the page is small"


def test_a_missing_file_is_logged_and_the_others_are_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "style.css").write_text("x")
    assert list(read_page(tmp_path)) == ["/ui/style.css"]
    assert "page.html" in caplog.text


def test_the_page_loads_its_own_files_only_and_has_no_inline_script_or_style() -> None:
    html = TEXTS["page.html"]
    loaded = re.findall(r'(?:src|href)="([^"#][^"]*)"', html)
    assert set(loaded) <= set(PAGE_FILES)
    for name, text in TEXTS.items():
        imports = re.findall(r'from "([^"]+)"', text)
        assert set(imports) <= set(PAGE_FILES), name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)[^$]", text), f"{name} names another host"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), name
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", html)


def test_every_module_is_loaded_at_once_and_not_one_after_another() -> None:
    preloaded = set(re.findall(r'rel="modulepreload" href="([^"]+)"', TEXTS["page.html"])) | {"/ui/main.js"}
    assert preloaded == {route for route in PAGE_FILES if route.endswith(".js")}


def test_every_element_that_a_module_looks_up_is_in_the_page() -> None:
    ids = re.findall(r'\sid="([^"]+)"', TEXTS["page.html"])
    assert len(ids) == len(set(ids))
    for name, text in TEXTS.items():
        if name.endswith(".js"):
            assert set(re.findall(r'byId\("([^"]+)"\)', text)) <= set(ids), name


def test_the_packages_prices_can_be_read() -> None:
    prices = read_instance_prices()
    assert prices.region == "us-east-1"
    assert prices.dollars_per_hour["g5.xlarge"] > 0


@pytest.mark.parametrize("text", ["", "{", json.dumps({"region": "r"}), None])
def test_prices_that_cannot_be_used_are_none_and_logged(
    text: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    file = tmp_path / "prices.json"
    if text is not None:
        file.write_text(text)
    assert read_instance_prices(file) == NO_PRICES
    assert "prices" in caplog.text
