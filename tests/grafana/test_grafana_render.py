"""Dashboards drawn from what a Prometheus answers; here it answers the same to everything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest

GRAFANA = Path(__file__).parent.parent.parent / "grafana"
LABELS = {"model": "m<&", "version": "1", "layer": "3", "site": "resid", "le": "0.5"}


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        if "start" in asked:
            begin, end = float(asked["start"][0]), float(asked["end"][0])
            answer = {"metric": LABELS, "values": [[begin, "1"], [(begin + end) / 2, "NaN"], [end, "2.5"]]}
        else:
            answer = {"metric": LABELS, "value": [float(asked["time"][0]), "7"]}
        body = json.dumps({"data": {"result": [answer]}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test does not talk."""


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("drawings")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as prometheus:
        threading.Thread(target=prometheus.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{prometheus.server_address[1]}"
        subprocess.run([sys.executable, GRAFANA / "render.py", url, folder], check=True, capture_output=True)
        prometheus.shutdown()
    return {path.stem: path.read_text() for path in folder.iterdir()}


def test_each_dashboard_is_drawn_as_well_formed_svg(drawings: dict[str, str]) -> None:
    assert drawings.keys() == {path.stem for path in (GRAFANA / "dashboards").iterdir()}
    for drawing in drawings.values():
        assert ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("path", sorted((GRAFANA / "dashboards").iterdir()), ids=lambda path: path.stem)
def test_every_panel_is_there_with_its_title(path: Path, drawings: dict[str, str]) -> None:
    texts = {element.text for element in ElementTree.fromstring(drawings[path.stem]).iter()}
    assert {panel["title"] for panel in json.loads(path.read_text())["panels"]} <= texts


def test_no_number_that_is_not_finite_is_drawn(drawings: dict[str, str]) -> None:
    assert not [name for name, drawing in drawings.items() if re.search(r"\b(nan|inf)\b", drawing)]
