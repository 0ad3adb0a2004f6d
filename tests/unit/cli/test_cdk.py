"""The CDK's command-line tool: found, run to its end, its output made readable; with a script in its place."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from cli.adapters import cdk
from cli.adapters.cdk import Cdk, Project, find_project, required_toolkit, templates_of, tool_command
from cli.core.cdk_output import failure_excerpt, parse_completion, parse_progress, strip_colors
from cli.errors import Failed, TimedOut, ToolMissing

ROOT = Path(__file__).parents[3]


def test_events_of_cloudformation_are_shortened() -> None:
    line = "synkti-state |  3/12 | 10:00:00 PM | CREATE_IN_PROGRESS   | AWS::S3::Bucket | Models (ModelsC55D3500)"
    assert parse_progress(line) == "synkti-state 3/12: create in progress Models (ModelsC55D3500)"
    uncounted = "synkti-state |   0 | 10:00:00 PM | UPDATE_COMPLETE | AWS::S3::Bucket | Models"
    assert parse_progress(uncounted) == "synkti-state 0: update complete Models"
    assert parse_progress("synkti-state: deploying... [1/1]") is None


def test_a_completion_names_its_stack_and_whether_it_changed() -> None:
    assert parse_completion(" ✅  synkti-state") == "synkti-state is deployed"
    assert parse_completion(" ✅  synkti-state (no changes)") == "synkti-state: no change"
    assert parse_completion(" ✅  Environment aws://1/us-east-1 bootstrapped.") == "aws://1/us-east-1 is deployed"
    assert parse_completion("✨  Synthesis time: 9.78s") is None


def test_colours_are_removed() -> None:
    assert strip_colors("\x1b[31m❌\x1b[39m  failed  \n") == "❌  failed"


def test_a_failure_is_the_excerpt_from_its_first_line() -> None:
    lines = ["a", "", "❌  synkti-fleet failed", "‣ quota", "b"]
    assert failure_excerpt(lines) == "❌  synkti-fleet failed\n‣ quota\nb"
    assert failure_excerpt([f"line {n}" for n in range(40)]).splitlines() == [f"line {n}" for n in range(28, 40)]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A checkout whose tool is a script that prints its arguments and runs `behave`."""
    for name in ("app.py", "stacks/settings.py", "synkti.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "cdk.json").write_text("{}")
    (tmp_path / "package.json").write_text('{"devDependencies": {"aws-cdk": "2.9.9"}}')
    script = tmp_path / "node_modules" / ".bin" / "cdk"
    script.parent.mkdir(parents=True)
    script.write_text(f'#!{sys.executable}\nimport sys\nprint(*sys.argv[1:])\nexec(open("{tmp_path}/behave").read())\n')
    script.chmod(0o755)
    (tmp_path / "behave").touch()
    return find_project(tmp_path / "stacks", tmp_path / "cache")


def made(project: Project, logged: list[str] | None = None, shown: list[str] | None = None) -> Cdk:
    log, show = [] if logged is None else logged, [] if shown is None else shown
    context = {"nodes": "5"}
    return Cdk(project, dict(os.environ), context, project.root / "log" / "x.log", log.append, show.append)


def test_a_checkout_deploys_itself_from_any_of_its_folders(project: Project, tmp_path: Path) -> None:
    assert project == Project(tmp_path, tmp_path, tmp_path / "synkti.toml")
    assert project.pinned_version == "2.9.9"
    assert tool_command(project) == [str(tmp_path / "node_modules" / ".bin" / "cdk")]


def test_elsewhere_the_installed_app_is_deployed_with_the_local_settings(tmp_path: Path) -> None:
    here = tmp_path / "anywhere"
    here.mkdir()
    (here / "synkti.toml").touch()
    found = find_project(here, tmp_path / "cache")
    assert found == Project(ROOT, tmp_path / "cache" / "cdk", here / "synkti.toml")
    assert json.loads((found.folder / "cdk.json").read_text()) == json.loads((ROOT / "cdk.json").read_text())
    assert find_project(tmp_path, tmp_path / "cache").settings is None


def test_without_node_modules_npx_runs_the_pinned_version(project: Project) -> None:
    shutil.rmtree(project.root / "node_modules")
    assert tool_command(project) == ["npx", "--yes", "aws-cdk@2.9.9"]


@pytest.mark.parametrize(("version", "message"), [(None, "Node.js is not installed"), (18, "Node.js 18 is too old")])
def test_without_node_the_error_names_the_required_version(
    version: int | None, message: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdk, "node_version", lambda: version)
    with pytest.raises(ToolMissing, match=message):
        tool_command(project)


def test_the_arguments_of_each_call_are_those_of_the_cdk(project: Project) -> None:
    tools = made(project)
    tools.synth(project.root / "out")
    tools.bootstrap("123456789012", "us-east-1")
    tools.deploy(project.root / "out", ("synkti-state",), direct=False, within_s=60)
    tools.deploy(project.root / "out", (), direct=True, within_s=60)
    calls = [line for line in (project.root / "log" / "x.log").read_text().splitlines() if not line.startswith("$")]
    assert calls[0] == (
        f"synth --quiet --all --app {sys.executable} {project.root}/app.py --output {project.root}/out "
        f"-c settings_file={project.root}/synkti.toml -c nodes=5"
    )
    assert calls[1] == "bootstrap aws://123456789012/us-east-1"
    assert calls[2] == (
        f"deploy synkti-state --app {project.root}/out --require-approval never --progress events --concurrency 3"
    )
    assert calls[3].startswith("deploy --all ")
    assert calls[3].endswith("--method direct")


def test_the_output_of_the_tool_is_followed(project: Project) -> None:
    logged: list[str] = []
    shown: list[str] = []
    lines = ["s | 1/2 | 10 | CREATE_COMPLETE | AWS::S3::Bucket | B", " ✅  s"]
    (project.root / "behave").write_text("\n".join(f"print({line!r})" for line in lines))
    made(project, logged, shown).deploy(project.root, (), direct=True, within_s=60)
    assert (shown, logged) == (["s 1/2: create complete B"], ["s is deployed"])


def test_a_failure_has_its_reason_and_its_log(project: Project) -> None:
    (project.root / "behave").write_text('print("❌  s failed"); print("quota"); sys.exit(3)')
    with pytest.raises(Failed, match="cdk deploy failed:\n❌  s failed\nquota") as failed:
        made(project).deploy(project.root, (), direct=True, within_s=60)
    assert str(project.root / "log" / "x.log") in failed.value.advice


def test_a_tool_that_does_not_end_is_killed(project: Project) -> None:
    (project.root / "behave").write_text("import threading; threading.Event().wait(60)")
    with pytest.raises(TimedOut, match="did not end within 0 s"):
        made(project).deploy(project.root, (), direct=True, within_s=0.2)


def test_an_assembly_has_its_templates_and_the_required_toolkit(tmp_path: Path) -> None:
    artifacts = {
        "synkti-state": {
            "type": "aws:cloudformation:stack",
            "properties": {"templateFile": "s.json", "requiresBootstrapStackVersion": 6},
        },
        "synkti-state.assets": {"type": "cdk:asset-manifest", "properties": {"requiresBootstrapStackVersion": 8}},
        "Tree": {"type": "cdk:tree"},
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"artifacts": artifacts}))
    assert required_toolkit(tmp_path) == 8
    assert templates_of(tmp_path) == {"synkti-state": tmp_path / "s.json"}
    (tmp_path / "manifest.json").write_text("{}")
    assert required_toolkit(tmp_path) == 0


def test_the_wheel_has_every_file_that_the_app_deploys() -> None:
    """Every file of the packages that is no module is named as package data, or it would not be installed."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    include = settings["packages"]["find"]["include"]
    folders = {"cli": "cli", "lambdas": "lambdas", "node_agent": "node_agent", "stacks": "stacks"}
    folders |= {"requirements": "requirements", "synkti_client": "client/synkti_client"}
    for package, folder in folders.items():
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert files
        for path in files:
            name = ".".join((package, *path.parent.relative_to(ROOT / folder).parts))
            assert any(fnmatch(name, pattern) for pattern in include), name
            known = settings["package-data"].get(name, [])
            if path.suffix not in (".py", ".in"):
                assert any(fnmatch(path.name, pattern) for pattern in known), path
    assert settings["py-modules"] == ["app"]
    assert {"cdk.json", "package.json", "synkti.toml"} <= set(settings["data-files"]["share/synkti"])
