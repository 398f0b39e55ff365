"""The page as one file with its answers in it, which opens without a server and asks nobody."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping

from sidecar.console.sources import FOLDER, STATIC, plotly, scripts
from sidecar.errors import ConfigError

_LOADED = re.compile(r' *<(?:script|link)[^>]* (?:src|href)="static/[^>]*>(?:</script>)?\n')


def document(title: str, answers: Mapping[str, object]) -> str:
    """HTML with everything in it. answers: by the key that `keyOf` in api.js makes of a question.

    Raises ConfigError where plotly is not installed.
    """
    drawing = plotly()
    if drawing is None:
        raise ConfigError("a report needs plotly: pip install 'activation-sidecar[console]'")
    code = [_within_script(drawing.read_text(encoding="utf-8")), _within_script(scripts())]
    # A `<` in JSON can only stand in a string.
    told = json.dumps(answers, separators=(",", ":")).replace("<", "\\u003c")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, code))}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    head = "\n".join(
        (
            f'<meta http-equiv="content-security-policy" content="{policy}">',
            f"<style>{(STATIC / 'style.css').read_text(encoding='utf-8')}</style>",
            f"<script>{code[0]}</script>",
            "</head>",
        )
    )
    tail = (
        f'<script type="application/json" id="answers">{told}</script>\n'
        f'<script type="module">{code[1]}</script>\n</body>'
    )
    page = _LOADED.sub("", (FOLDER / "index.html").read_text(encoding="utf-8"))
    named = page.replace("<title>Activation sidecar</title>", f"<title>{_escaped(title)}</title>")
    return named.replace("</head>", head).replace("</body>", tail)


def _within_script(code: str) -> str:
    """Without what would end the element early, and with the line ends that a parser makes."""
    return code.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script")


def _hash(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
