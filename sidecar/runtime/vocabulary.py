"""The words behind token ids, from the `tokenizer.json` of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

TOKENIZER = "tokenizer.json"


def read(folder: Path) -> dict[int, str]:
    """Token id -> its text; empty where the folder has no such file, or one that is written otherwise."""
    try:
        described = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
        told = described["model"]["vocab"]
        # Unigram models list [text, score], the others map text -> id.
        ids = told if isinstance(told, dict) else {text: place for place, (text, _) in enumerate(told)}
        in_bytes = "ByteLevel" in json.dumps([described.get("pre_tokenizer"), described.get("decoder")])
        words = {int(number): _text(text, in_bytes=in_bytes) for text, number in ids.items()}
        return words | {int(one["id"]): str(one["content"]) for one in described.get("added_tokens", ())}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _text(token: str, *, in_bytes: bool) -> str:
    if not in_bytes:
        return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ")
    known = [_LETTERS[letter] for letter in token if letter in _LETTERS]
    return bytes(known).decode("utf-8", "replace")


def _letters() -> dict[str, int]:
    """Byte-level vocabularies write a byte as the letter of that number if it can be seen, else as one from 256 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_LETTERS = _letters()
