"""Put Prometheus, Alertmanager and their checkers into `.tools/bin/`, without root and without installing.

Programs already on PATH are linked; the rest is unpacked from Debian's packages, with apt's lists and
downloads kept under `.tools/` so that the system's own stay as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent / ".tools"
PACKAGES = ("prometheus", "prometheus-alertmanager")
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "prometheus-alertmanager": ("prometheus-alertmanager", "alertmanager"),
    "amtool": ("amtool",),
}
"""Name in `.tools/bin/` -> the names it goes by elsewhere; Debian alone calls it prometheus-alertmanager."""


NEWER, SUITE = "prometheus-newer", "forky"
"""Name in `.tools/bin/` of a Prometheus of the next major version, and the suite of Debian whose package runs here."""


class FetchError(Exception):
    """Why the programs cannot be had on this machine."""


def runs(program: Path, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the program starts at all: a link may dangle, a shared library may be missing."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, check=False, env=environ)
        return done.returncode == 0
    except OSError:
        return False


def absent(bin_folder: Path) -> list[str]:
    """Names from PROGRAMS that do not run from `bin_folder`."""
    return [name for name in PROGRAMS if not runs(bin_folder / name)]


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(source)


def link_installed(names: Iterable[str], bin_folder: Path, path: str) -> None:
    """Link what `path` (in the form of $PATH) already offers."""
    for name in names:
        for alias in PROGRAMS[name]:
            if found := shutil.which(alias, path=path):
                link(Path(found), bin_folder / name)
                break


def unpack(tools: Path, path: str, names: Sequence[str] = PACKAGES, suite: str = "") -> Path:
    """Download the packages of these names and unpack them under `tools`. Returns the folder that holds the programs.

    suite: of Debian, in place of those that this machine takes its packages from.
    Raises FetchError without apt, without network, or where the distribution lacks the packages.
    """
    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command, path=path) is None:
            raise FetchError(f"{command} is not on this machine")
    apt, packages, root = (tools / name for name in ("apt", "packages", f"root-{suite}" if suite else "root"))
    shutil.rmtree(packages, ignore_errors=True)  # an older version from a run that was cut off
    for folder in (apt / "state/lists/partial", apt / "cache/archives/partial", packages, root):
        folder.mkdir(parents=True, exist_ok=True)
    private = [
        *("-o", f"Dir::State={apt / 'state'}", "-o", f"Dir::Cache={apt / 'cache'}"),
        *("-o", "Dir::State::status=/var/lib/dpkg/status"),
        # Root would hand the download to the user _apt, who may not write here.
        *("-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2", "-q"),
    ]
    if suite:
        (apt / "sources.list").write_text(f"deb {_archive()} {suite} main\n")
        private += [
            "-o",
            f"Dir::Etc::sourcelist={apt / 'sources.list'}",
            "-o",
            "Dir::Etc::sourceparts=/dev/null",
        ]
    # Whether `update` failed shows in `download`; alone it also fails for a source nobody needs here.
    subprocess.run(["apt-get", *private, "update"], cwd=packages, capture_output=True, check=False)
    download = subprocess.run(
        ["apt-get", *private, "download", *names],
        cwd=packages,
        capture_output=True,
        text=True,
        check=False,
    )
    archives = sorted(packages.glob("*.deb"))
    if download.returncode != 0 or not archives:
        reasons = download.stderr.strip().splitlines() or ["no package came"]
        raise FetchError(f"apt-get cannot download {' and '.join(names)}: {reasons[-1]}")
    for archive in archives:
        if subprocess.run(["dpkg-deb", "-x", archive, root], check=False).returncode != 0:
            raise FetchError(f"{archive.name} cannot be unpacked")
    shutil.rmtree(apt)
    shutil.rmtree(packages)
    return root / "usr/bin"


def _archive() -> str:
    """Where this machine takes Debian's packages from. Raises FetchError where it takes none."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    for address in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        if address.rstrip("/").endswith("/debian"):
            return address
    raise FetchError("this machine takes no packages from Debian")


def fetch_newer(tools: Path, path: str) -> None:
    """Make a newer Prometheus run from `tools`/bin. Raises FetchError where it cannot be had."""
    link_to = tools / "bin" / NEWER
    if not runs(link_to):
        unpacked = unpack(tools, path, ["prometheus"], SUITE)
        link(Path(os.path.relpath(unpacked / "prometheus", link_to.parent)), link_to)
        if not runs(link_to):
            raise FetchError(f"{NEWER} came but does not run on this machine")


def fetch(tools: Path, path: str) -> None:
    """Make every program run from `tools`/bin. Raises FetchError naming what is missing and why."""
    bin_folder = tools / "bin"
    link_installed(absent(bin_folder), bin_folder, path)
    if missing := absent(bin_folder):
        unpacked = unpack(tools, path)
        for name in missing:
            link(Path(os.path.relpath(unpacked / name, bin_folder)), bin_folder / name)
    if still := absent(bin_folder):
        raise FetchError(f"{', '.join(still)} came but do not run on this machine")


def main(environ: Mapping[str, str], tools: Path, *, newer: bool = False) -> int:
    """0 when the programs are there, or when their absence only means skipped tests; 1 under CI=true.

    newer: a newer Prometheus too, whose absence is never more than that.
    """
    path = environ.get("PATH", os.defpath)
    try:
        fetch(tools, path)
    except FetchError as error:
        print(f"tools: {error}; the tests that need these programs are skipped", file=sys.stderr)
        return int(environ.get("CI", "").lower() == "true")
    try:
        if newer:
            fetch_newer(tools, path)
    except FetchError as error:
        print(f"tools: {error}; nothing is tested with a newer Prometheus", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ, TOOLS, newer="--newer" in sys.argv[1:]))
