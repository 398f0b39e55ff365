"""Every relative link in the Markdown files leads to a file that exists. Exits 1 and names those that do not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def broken(root: Path) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=root, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [
        f"{page}: {target} does not exist"
        for page in listed.stdout.splitlines()
        for target in LINK.findall((root / page).read_text(encoding="utf-8"))
        if "://" not in target and not (root / page).parent.joinpath(target).exists()
    ]


if __name__ == "__main__":
    if found := broken(Path(__file__).parent.parent):
        sys.exit("\n".join(found))
