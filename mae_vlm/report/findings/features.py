"""Do features still tell pictures apart?"""

from __future__ import annotations

from mae_vlm.report.findings.base import FAULT, Check, Finding, Untold, needed, tail
from mae_vlm.report.recorded import Recorded

# Of this run's own start. Tiny runs that learned ended between 0.7 and 2.6 of it; those that stood at the mean of all pictures, before they
# used what they saw, at 0.3 and 0.34; a rate far too high led to 0.04, an encoder that was made to forget its input to 0.12. The effective
# rank says less: it fell to 0.4 of its start in healthy runs too.
_DEVIATION = 0.2
_FLAT = 1.5  # dimensions: hardly more than one is left


def collapsing_features(run: Recorded) -> Finding | None:
    spread, rank = needed(run, "features/deviation", 2), run.curve("features/effective_rank")
    before, now = spread[0][1], tail(spread)
    if before <= 0:
        raise Untold("the features were all alike before the first step")
    fell_apart = now < _DEVIATION * before
    narrow = len(rank) > 1 and rank[-1][1] < _FLAT < 0.5 * rank[0][1]
    if not (fell_apart or narrow):
        return None
    ranks = [f"effective rank {rank[0][1]:.1f} at the start, {rank[-1][1]:.1f} at the end"] if len(rank) > 1 else []
    return Finding(
        "collapsing-features",
        FAULT,
        "Features collapse: the encoder gives all pictures nearly the same.",
        (f"deviation over pictures {before:.3g} at the start, {now:.3g} at the end ({now / before:.0%})", *ranks),
        (
            "a lower model.optimizer.base_lr, or a longer warm-up (model.optimizer.warmup)",
            "look at the pictures below: where they all look alike there is nothing to tell apart",
            "reconstruction alone does not collapse an encoder that it reads: see whether another objective pulls it there",
        ),
        explains=("not-using-visible-patches", "not-learning"),
    )


CHECKS = (Check("collapsing-features", "do features still tell pictures apart?", collapsing_features),)
