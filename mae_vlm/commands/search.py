"""``python -m mae_vlm search INDEX "a red square"``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mae_vlm.commands.arguments import Arguments, complain

_PAGE = "search.html"


def main(arguments: list[str]) -> int:
    """Print the nearest pictures and write them as a page; 0 when done, 1 for a mistake of the user's."""
    parser = Arguments(
        "search", "The pictures of an index that are nearest to some words, or to a picture, as paths with scores and as a page."
    )
    parser.add_argument("index", metavar="INDEX", type=Path, help="what python -m mae_vlm index has made")
    parser.add_argument("words", metavar="WORDS", nargs="?", help="what the pictures shall show, in quotes")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="instead of words: what they shall look like")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="pictures to find; default 10")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help=f"the page; default INDEX/{_PAGE}")
    parser.add_argument("--exact", action="store_true", help="look through all neighbourhoods of an ivf index")
    parser.add_argument("--weights", metavar="RUN", help="the run that made the index, where it was made --bare")
    given = parser.parse_args(arguments)
    if (given.words is None) == (given.picture is None):
        parser.error("give either words or --picture FILE")
    if given.top < 1:
        parser.error(f"--top {given.top} given, allowed is 1 or more")
    try:
        return _search(given)
    except (ValueError, OSError) as problem:
        complain(problem)
        return 1


def _search(given: argparse.Namespace) -> int:
    from mae_vlm import storage
    from mae_vlm.index.page import page
    from mae_vlm.index.search import Searcher

    searcher = Searcher(given.index, given.weights)
    if given.words is not None:
        hits = searcher.words(given.words, given.top, given.exact)
    else:
        hits = searcher.picture(given.picture, given.top, given.exact)
    for hit in hits:
        print(f"{hit.score:.4f}  {hit.path}")
    about = f"the nearest {len(hits)} of {searcher.stored.pictures:,} pictures of {searcher.stored.root}, by {searcher.origin}"
    content = page(hits, given.words, given.picture, about)
    target = given.page or given.index / _PAGE
    try:
        storage.write_whole(target, lambda file: file.write(content))
    except OSError as problem:
        if given.page is not None:
            raise
        print(f"no page is written: {problem}; name a place with --page FILE.html")
        return 0
    print(f"page: {target}")
    return 0
