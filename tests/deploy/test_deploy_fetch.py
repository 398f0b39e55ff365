"""`make tools`, on machines as they may be; nothing is downloaded here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.fetch import PROGRAMS, main


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with all programs under the names that their makers gave them."""
    folder = tmp_path / "usr"
    folder.mkdir()
    for names in PROGRAMS.values():
        program = folder / names[-1]
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return folder


def test_installed_programs_are_linked(tmp_path: Path, installed: Path) -> None:
    assert main({"PATH": str(installed), "CI": "true"}, tmp_path / "tools") == 0
    links = {link.name: link.readlink().name for link in (tmp_path / "tools/bin").iterdir()}
    assert links == {name: names[-1] for name, names in PROGRAMS.items()}


def test_a_second_run_changes_nothing(tmp_path: Path, installed: Path) -> None:
    main({"PATH": str(installed)}, tmp_path / "tools")
    before = (tmp_path / "tools/bin").stat().st_mtime_ns
    assert main({"PATH": ""}, tmp_path / "tools") == 0
    assert (tmp_path / "tools/bin").stat().st_mtime_ns == before


def test_a_link_to_a_program_that_went_away_is_made_anew(tmp_path: Path, installed: Path) -> None:
    main({"PATH": str(installed)}, tmp_path / "tools")
    moved = installed.rename(tmp_path / "opt")
    assert main({"PATH": str(moved), "CI": "true"}, tmp_path / "tools") == 0
    assert (tmp_path / "tools/bin/promtool").exists()


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("false", 0), ("true", 1)])
def test_without_apt_it_says_so_and_fails_only_under_ci(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ci: str, status: int
) -> None:
    assert main({"PATH": str(tmp_path), "CI": ci}, tmp_path / "tools") == status
    assert "apt-get is not on this machine" in capsys.readouterr().err


def test_a_download_that_fails_names_the_packages_and_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, script in (("apt-get", "echo 'E: no network' >&2; exit 100"), ("dpkg-deb", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main({"PATH": str(tmp_path)}, tmp_path / "tools") == 0
    assert "cannot download prometheus and prometheus-alertmanager: E: no network" in capsys.readouterr().err
