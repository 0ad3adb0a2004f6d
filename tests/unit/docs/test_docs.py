"""The pages agree with the repository: links, paths, diagrams, figures of the code, the index of the decisions."""

from __future__ import annotations

import ast
import re
import string
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from checks import stream_states
from local.chaos.kinds import FAULT_KINDS
from tests.conformance.cases import all_cases
from tests.contract.event_rows import ROWS as EVENT_ROWS
from tests.contract.rows import ROWS
from tests.unit.core.sizing.models import PUBLIC_MODELS

ROOT = Path(__file__).parents[3]
DOCS, DECISIONS = ROOT / "docs", ROOT / "docs" / "decisions"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
DECIDED = tuple(sorted(DECISIONS.glob("[0-9]*.md")))
AGENT = ROOT / "node_agent"

IGNORED = {line.strip().rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
FOLDERS = {path.name for base in (ROOT, AGENT) for path in base.iterdir() if path.is_dir()} - IGNORED
SUFFIXES = (".py", ".md", ".toml", ".sh", ".txt", ".yml", ".json", ".in", ".service", ".svg")
ELSEWHERE = {"/openapi.json", "bin/", "out/certificate.json", "docs/gguf.md"}
"""Not of this repository's tree: a prefix in S3, what a run writes, a page of ggml's."""

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
decision = pytest.mark.parametrize("path", DECIDED, ids=lambda path: path.stem)


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text_of(path), flags=re.MULTILINE | re.DOTALL)


def spans(path: Path) -> list[str]:
    """What stands between backticks, outside blocks of code; a span may go over the end of a line."""
    return re.findall(r"`([^`]+)`", prose(path))


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```.*?\n(.*?)^```$", text_of(path), re.MULTILINE | re.DOTALL)


@cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors that GitHub makes of a page's headings: the second of the same name ends in -1."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(found)


def broken_links(path: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(path))):
        target, _, anchor = link.partition("#")
        if ":" in target:
            continue
        other = (path.parent / target).resolve() if target else path
        if not other.exists() or (anchor and anchor not in anchors(other)):
            yield link


@page
def test_every_link_and_every_anchor_resolves(path: Path) -> None:
    assert list(broken_links(path)) == []


def is_path(word: str) -> bool:
    """Whether a word of a code span names a file or a folder of the repository."""
    if not set(word) <= set(string.ascii_letters + string.digits + "_-./") or "/" not in word:
        return False
    first, _, rest = word.partition("/")
    return first in FOLDERS or word.endswith(SUFFIXES) or not rest


def exists(word: str) -> bool:
    """From the root, from the agent's package, or from the docs; modules are named without `.py`."""
    return any((base / f"{word}{suffix}").exists() for base in (ROOT, AGENT, DOCS) for suffix in ("", ".py"))


@page
def test_every_path_exists(path: Path) -> None:
    words = {word.rstrip(".,;:") for span in spans(path) for word in span.split()} - ELSEWHERE
    assert sorted(word for word in words if is_path(word) and not exists(word)) == []


def test_code_cites_documents_that_exist() -> None:
    cited = re.compile(r"\bdocs/(?:[\w-]+/)*[\w-]+\.md|\bdocs/decisions/\d{4}|\b(?:DESIGN|STYLE)\b")
    code = chain.from_iterable((ROOT / folder).rglob("*.py") for folder in sorted(FOLDERS) if (ROOT / folder).is_dir())
    for path in code:
        names = set() if path == Path(__file__) else set(cited.findall(text_of(path)))
        for name in names - ELSEWHERE:
            assert list(ROOT.glob(f"{name}*")), f"{path.relative_to(ROOT)} cites {name}"


def test_pages_cite_no_document_that_is_not_here() -> None:
    for path in PAGES:
        assert not re.search(r"\b(DESIGN|STYLE|ADR)\b", text_of(path)), path.relative_to(ROOT)


def figures(path: Path, pattern: str) -> set[int]:
    """The figures that a page gives in such a phrase; it has to give one."""
    found = {int(figure) for figure in re.findall(pattern, " ".join(text_of(path).split()))}
    assert found, f"{path.name} has no {pattern}"
    return found


def test_the_rows_of_the_continuation_table() -> None:
    assert figures(ROOT / "README.md", r"(\d+) rows") == {len(ROWS) + len(EVENT_ROWS)}


def test_the_kinds_of_chaos() -> None:
    kinds = {kind.name for kind in FAULT_KINDS}
    assert figures(ROOT / "README.md", r"(\d+) ways") == {len(kinds)}
    section = text_of(DOCS / "reliability.md").partition("## Kinds of chaos\n")[2].partition("\n\n")[0]
    named = re.findall(r"`([^`]+)`", section)
    assert sorted(named) == sorted(kinds)


def test_the_requests_of_the_conformance_tests() -> None:
    assert figures(DOCS / "compatibility.md", r"same (\d+) requests") == {len(list(all_cases()))}


def test_the_models_that_are_compared_with_vllm() -> None:
    assert figures(DOCS / "model-fit.md", r"for (\d+) public models") == {len(PUBLIC_MODELS)}


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


@page
def test_every_make_target_is_one(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", makefile(), re.MULTILINE))
    lines = [line for block in blocks(path) for line in block.splitlines()]
    named = {found[1] for code in (*spans(path), *lines) if (found := re.match(r"make\s+([a-z][a-z-]*)", code))}
    assert named <= targets, named - targets


def test_the_defaults_of_the_make_targets() -> None:
    defaults = dict(re.findall(r"^([A-Z_]+) \?= (\d+)$", makefile(), re.MULTILINE))
    readme = ROOT / "README.md"
    assert figures(readme, r"make chaos # (\d+) interruptions") == {int(defaults["INTERRUPTIONS"])}
    assert figures(readme, r"make simulate # a fleet of (\d+) nodes") == {int(defaults["NODES"])}


def layers_of_contract(name: str) -> list[set[str]]:
    """The layers of one of import-linter's contracts, the highest first, without the package's name."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (found,) = (contract["layers"] for contract in contracts if contract["name"] == name)
    return [{module.removeprefix("node_agent.") for module in layer.split(" | ")} for layer in found]


def layers_of_diagram(heading: str) -> list[set[str]]:
    """The layers that a diagram of docs/architecture.md shows: a subgraph each, in the order of its last line."""
    section = text_of(DOCS / "architecture.md").partition(f"### {heading}\n")[2]
    diagram = section.partition("```mermaid\n")[2].partition("```")[0]
    subgraphs = {
        name: set(body.split())
        for name, body in re.findall(r"^ *subgraph (\w+)\[.*?\]\n(.*?)^ *end$", diagram, re.MULTILINE | re.DOTALL)
    }
    order = diagram.strip().splitlines()[-1].split(" --> ")
    assert sorted(name.strip() for name in order) == sorted(subgraphs)
    return [subgraphs[name.strip()] for name in order]


@pytest.mark.parametrize(
    ("heading", "contract"),
    [
        ("The features of core", "the features that core decides for"),
        ("The features of runtime", "the features that the runtime runs"),
    ],
)
def test_a_diagram_of_layers_shows_those_of_its_contract(heading: str, contract: str) -> None:
    assert layers_of_diagram(heading) == layers_of_contract(contract)


def test_the_diagram_of_stream_states_is_generated_from_their_table() -> None:
    shown = text_of(stream_states.PAGE).partition(f"{stream_states.BEGIN}\n")[2].partition(stream_states.END)[0]
    assert shown == stream_states.render_diagram(), "python -m checks.stream_states"


def test_the_layers_of_the_agent_are_those_of_its_contract() -> None:
    block = text_of(DOCS / "architecture.md").partition("## The layers\n```\n")[2]
    shown = [set(layer.split(" | ")) for layer in block.splitlines()[0].split(" > ")]
    assert shown == layers_of_contract("the agent's layers")


def test_the_sample_output_has_the_texts_of_the_demo() -> None:
    trees = [ast.parse(text_of(path)) for path in sorted((ROOT / "local" / "demo").glob("*.py"))]
    nodes = chain.from_iterable(map(ast.walk, trees))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    (sample,) = (block for block in blocks(ROOT / "README.md") if "tokens, exactly" in block)
    parts = {part.strip() for part in re.split(r"[\d.]+|[;:,()\n]", sample)} - {""}
    assert len(parts) > 5
    assert sorted(part for part in parts if not any(part in text for text in texts)) == []


@decision
def test_a_decision_has_its_status_and_its_date_and_is_in_the_index(path: Path) -> None:
    found = re.match(
        r"# (?P<number>\d+)\. (?P<title>.+)\n\n"
        r"- Status: (?P<status>accepted|superseded by \[\d{4}\]\(\d{4}-[\w-]+\.md\))\n"
        r"- Date: (?P<date>\d{4}-\d\d-\d\d)\n\n",
        text_of(path),
    )
    assert found, "a title with the number, a status and a date"
    assert int(found["number"]) == int(path.stem[:4])
    row = f"| [{path.stem[:4]}]({path.name}) | {found['title']} | {found['status']} | {found['date']} |"
    assert row in text_of(DECISIONS / "README.md").splitlines()


def test_the_index_has_no_other_decisions() -> None:
    rows = re.findall(r"^\| \[\d{4}\]\((.+?)\)", text_of(DECISIONS / "README.md"), re.MULTILINE)
    assert rows == [path.name for path in DECIDED]
