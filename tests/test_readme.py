"""The README's lines run, and give what it says they give."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from running import digests, twin, twin_json

from twin.loader import parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_controller_of_the_readme_runs_replays_and_goes_live(tmp_path: Path) -> None:
    (tmp_path / "quiet.py").write_text(blocks("python")[0])
    commands = [line for line in blocks("sh")[1].splitlines() if line]
    run, replay, live, baseline, compare = (shlex.split(line)[1:] for line in commands)
    first = twin_json(*run, cwd=tmp_path)
    again = twin_json(*replay, cwd=tmp_path)
    assert digests(first) == digests(again)
    assert first["fingerprint"]["time_over_limit_ns"] == 0
    live[live.index("--duration") + 1] = "2"
    twin(*live, cwd=tmp_path)
    twin(*baseline, cwd=tmp_path)
    different = twin(*compare, cwd=tmp_path, check=False)
    assert different.returncode == 1
    assert different.stdout.startswith("control")


def test_the_scenario_of_the_readme_is_one(tmp_path: Path) -> None:
    file = tmp_path / "summer.toml"
    file.write_text(blocks("toml")[0])
    assert parse(file.read_text(), str(file)).machine.ambient_celsius == 38.0
    twin("run", file, "--duration", "2", "--out", tmp_path / "run")


def test_the_two_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in blocks("sh")[0].splitlines():
        assert f"\n{line.split()[1]}:" in makefile


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(page: str) -> None:
    place = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", place.read_text(encoding="utf-8")):
        assert (place.parent / target).exists(), target


def test_every_test_of_the_page_of_faults_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/faults.md").read_text(encoding="utf-8")))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, flags=re.MULTILINE)}
    assert len(named) > 60
    assert named <= there


def test_every_command_of_the_readme_exists_and_every_command_is_in_the_readme() -> None:
    helped = set(re.findall(r"^    (\w+)\b", twin("--help").stdout, flags=re.MULTILINE))
    named = set(re.findall(r"`twin (\w+)", README))
    assert named == helped
