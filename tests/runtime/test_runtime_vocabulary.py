"""Words of token ids, from the three kinds of vocabulary that a `tokenizer.json` may hold."""

from __future__ import annotations

import json

import pytest

from sidecar.runtime.vocabulary import read

KINDS = {
    "bytes": (
        {"decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"ĠcafÃ©": 0, "!": 1, "Ċ": 2}}},
        {0: " café", 1: "!", 2: "\n"},
    ),
    "pieces": ({"model": {"type": "WordPiece", "vocab": {"play": 0, "##ing": 1}}}, {0: "play", 1: "##ing"}),
    "scores": (
        {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁so", -1.5]]}},
        {0: "<unk>", 1: " so"},
    ),
}


@pytest.mark.parametrize(("described", "words"), KINDS.values(), ids=KINDS)
def test_ids_have_the_words_of_the_vocabulary(tmp_path, described, words):
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    assert read(tmp_path) == words


def test_tokens_that_were_added_are_words_too(tmp_path):
    described = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 5, "content": "[CLS]"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    assert read(tmp_path) == {0: "a", 5: "[CLS]"}


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "b"}}}']
)
def test_without_a_vocabulary_there_are_no_words(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    assert read(tmp_path) == {}
