"""Clients that nobody here wrote, for tests that skip without them: `python -m tests.bench.clients` fetches them."""

from tests.bench import perf_analyzer
from tests.bench.servers import VENVS, NoServerError, environment
from tools.fetch import FetchError

KSERVE = "kserve==0.21.0"
KSERVE_PYTHON = VENVS / "kserve/bin/python"


def fetch() -> None:
    """Put them under build/bench, and say why of any that cannot be."""
    try:
        environment("kserve", KSERVE, torch=False)
    except NoServerError as error:
        print(f"kserve's client is skipped: {error}")
    try:
        perf_analyzer.fetch()
    except FetchError as error:
        print(f"perf_analyzer is skipped: {error}")


if __name__ == "__main__":
    fetch()
