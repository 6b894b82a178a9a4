"""Stands in for ``python -m mae_vlm`` in tests of the ablation's own process handling: obeys signals, leaves what a run leaves.

A run of ratio 0.5 takes until it is told to stop unless its mark is there; one of ratio 9 fails.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path


def main(words: list[str]) -> int:
    options = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    run = Path(options["trainer.default_root_dir"]) / options["name"] / "version_0"
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    print("a line that is not the last")
    if options["ratio"] == "9":
        print("mae_vlm: error: ratio 9 given, allowed is less", file=sys.stderr)
        return 1
    mark = Path(options["mark"])
    if options["ratio"] == "0.5" and not mark.exists():
        signal.signal(signal.SIGINT, lambda number, frame: sys.exit(130))
        (run / "checkpoints" / "step_00000003.ckpt").touch()
        (run / "config.yaml").write_text("trainer: {max_steps: 77}\n")
        mark.touch()
        for _ in range(600):
            time.sleep(0.1)
        return 3
    (run / "words.json").write_text(json.dumps(words))
    (run / "metrics.csv").write_text(f"step,probe/linear,val/loss\n0,,1.5\n9,{0.5 + int(options['seed_everything']) / 100},0.5\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
