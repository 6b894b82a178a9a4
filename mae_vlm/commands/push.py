"""``python -m mae_vlm push RUN --repo org/name --license WORD``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mae_vlm.commands.arguments import Arguments, complain

_ABOUT = """Upload a run: its newest whole weights in timm's layout, its config without secrets, its pictures and a model card.
The repository is private unless --public is said; everything goes up in one commit, and what others have put there
is never overwritten without --force."""
_EXAMPLE = """the token is the hub's own: hf auth login, or HF_TOKEN; HF_ENDPOINT names another hub.

  python -m mae_vlm push runs/default/version_0 --repo org/name --license cc-by-nc-4.0 --dry-run
  python -m mae_vlm push RUN --to s3://bucket/models/name --license other --with-state"""


def main(arguments: list[str]) -> int:
    """Upload a run; 0 when all of it is there, 1 when the run or the target is at fault."""
    options = _parser().parse_args(arguments)
    try:
        return _push(options)
    except (ValueError, OSError) as problem:
        from mae_vlm.hub.secrecy import redacted

        complain(redacted(str(problem)))
        return 1


def _parser() -> Arguments:
    parser = Arguments("push", _ABOUT, epilog=_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder, also while the run goes on")
    parser.add_argument("--repo", metavar="ORG/NAME", help="a model repository on the Hugging Face hub; made if it is not there")
    parser.add_argument("--to", metavar="PLACE", help="instead of --repo: a folder, or s3://bucket/prefix (anything of fsspec's)")
    parser.add_argument("--license", metavar="WORD", required=True, help="who may do what with it, as apache-2.0, cc-by-nc-4.0 or other")
    parser.add_argument("--weights", default="raw", choices=["raw", "ema"], help="raw: as trained (default); ema: their moving average")
    parser.add_argument("--classifier", action="store_true", help="of a fine-tuned classifier the whole of it, not its encoder alone")
    parser.add_argument("--with-state", action="store_true", help="also the newest checkpoint, to go on from")
    parser.add_argument("--with-report", action="store_true", help="also the report as one page")
    parser.add_argument("--no-pictures", action="store_true", help="leave out the pictures, which show validation pictures")
    parser.add_argument("--public", action="store_true", help="everybody may see the repository")
    parser.add_argument("--force", action="store_true", help="also beside and over files that no push of this tool has put there")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded, ask no network, and end")
    parser.add_argument("--check", action="store_true", help="only see that the target can be reached and would take it")
    return parser


def _push(options: argparse.Namespace) -> int:
    from mae_vlm.hub.delivery import deliver, look, target_of
    from mae_vlm.hub.licences import check_licence
    from mae_vlm.hub.record import RECORD

    target = target_of(options.repo, options.to, options.public)
    check_licence(options.license)
    _quiet()
    if options.check:
        look(target, {"README.md", "config.json", "config.yaml", "model.safetensors", RECORD}, options.force, _warn)
        print(f"{target} can be reached")
        return 0

    from mae_vlm.convert.parcel import Wishes, pack  # torch is imported only now: the help above must not wait for it

    wishes = Wishes(
        options.license, options.weights, options.classifier, not options.no_pictures, options.with_report, state=options.with_state
    )
    with tempfile.TemporaryDirectory(prefix="mae_vlm_push_") as folder, _warnings_in_a_line():
        parcel = pack(options.run, Path(folder) / "parcel", wishes, getattr(target, "repo", None))
        sizes = {name: file.stat().st_size for name, file in parcel.files.items()}
        if options.dry_run:
            print(_listing(target.described, options, sizes, parcel.step))
            return 0
        address = deliver(target, parcel.files, parcel.step, options.force, _warn)
    print(f"uploaded step {parcel.step:,} to {address}   ({len(sizes)} files, {_size(sum(sizes.values()))})")
    return 0


def _listing(where: str, options: argparse.Namespace, sizes: dict[str, int], step: int) -> str:
    widest = max(map(len, sizes))
    lines = [f"would upload step {step:,} of {options.run} to {where}, licence {options.license}:"]
    lines += [f"  {name:<{widest}}  {_size(size):>9}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{len(sizes)} files, {_size(sum(sizes.values()))}; nothing else, and nothing yet (--dry-run)"])


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _quiet() -> None:
    """No bars into a log, and no client's own line for each attempt: ours tell them."""
    import logging

    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        disable_progress_bars()


def _warn(message: str) -> None:
    print(f"mae_vlm: warning: {message}", file=sys.stderr, flush=True)


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """A damaged checkpoint that is passed over is told in a line, without a place in our source."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)

        def show(message: Any, *arguments: Any, **named: Any) -> None:
            _warn(" ".join(str(message).split()))

        warnings.showwarning = show
        yield
