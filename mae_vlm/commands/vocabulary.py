"""python -m mae_vlm vocabulary: learn a vocabulary from the words of a collection."""

from __future__ import annotations

import argparse
from pathlib import Path

from mae_vlm.commands.arguments import Arguments, complain


def main(arguments: list[str]) -> int:
    """Write the vocabulary; 0 when done, 1 for a mistake of the user's."""
    parser = Arguments(
        "vocabulary", "Learn a vocabulary from the words of a collection (captions, questions, answers), for model.text.vocabulary."
    )
    parser.add_argument("--data.path", dest="path", help="folder, file or hub name of the collection; default: generated scenes")
    parser.add_argument("--data.format", dest="format", default="auto", help="as in fit; default: told from the content")
    parser.add_argument("--data.annotations", dest="annotations", help="as in fit")
    parser.add_argument("--data.caption_column", dest="caption_column", help="as in fit")
    parser.add_argument("--size", type=int, default=8192, help="tokens at most; default 8192")
    parser.add_argument(
        "--kind", choices=["wordpiece", "bpe", "words"], default="wordpiece", help="BERT's pieces of words, pairs of bytes, or whole words"
    )
    parser.add_argument("--cased", action="store_true", help="keep capital letters apart from small ones")
    parser.add_argument("--out", required=True, help="the file to write, such as vocabulary.json")
    given = parser.parse_args(arguments)
    try:
        return _learn(given)
    except (ValueError, OSError) as problem:
        complain(problem)
        return 1


def _learn(given: argparse.Namespace) -> int:
    from mae_vlm.data import captions
    from mae_vlm.data.module import Data

    out = Path(given.out)
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file in it, such as {out / 'vocabulary.json'}")
    data = Data(path=given.path, format=given.format, annotations=given.annotations, caption_column=given.caption_column)
    vocabulary = captions.learned(data.train_source(), given.size, given.kind, not given.cased)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(vocabulary.json, encoding="utf-8")
    print(f"{len(vocabulary):,} tokens: {out}; use it with --model.text.vocabulary {out}")
    return 0
