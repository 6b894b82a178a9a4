"""Who wins an ablation, who does not, and what the table, the files and the plot say of it; on made-up runs."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mae_vlm.ablation import table
from mae_vlm.ablation.comparison import compare, probed
from mae_vlm.ablation.outcomes import Outcome
from mae_vlm.ablation.plan import Job, choices
from mae_vlm.ablation.plot import Axis, svg

RATIO = "model.masking.init_args.ratio=0.6,0.75,0.9"


def config(ratio, **more):
    return {"model": {"init_args": {"masking": {"init_args": {"ratio": ratio}}}}, "probes": {"pictures": 2000, "time_share": 1.0}, **more}


def runs(scores, tag="probe/linear", vary=RATIO, configs=None, **more):
    """Outcomes of ``{choice's place: [score of seed 0, ...]}``; None is a run that failed."""
    made = choices([vary])
    outcomes = []
    for place, by_seed in scores.items():
        for seed, score in enumerate(by_seed):
            job = Job(made[place], seed, Path("out"))
            if score is None:
                outcomes.append(Outcome(job, "failed", reason="no memory | left"))
                continue
            last = {tag: score, "val/loss": 0.5 + place, "probe/knn": score / 2, "step": 9.0}
            given = configs[place] if configs else config(made[place].options[0][1])
            said = {"seconds": 40.0 + 10 * place + seed, "speed": 200.0, "config": given, "labelled": True} | more
            outcomes.append(Outcome(job, "finished", last, **said))
    return outcomes


CLEAR = {0: [0.40, 0.41, 0.42], 1: [0.50, 0.512, 0.519], 2: [0.30, 0.313, 0.318]}
CLOSE = {0: [0.40, 0.45, 0.42], 1: [0.44, 0.42, 0.46], 2: [0.30, 0.313, 0.318]}


def test_a_winner_is_named_with_its_margins_and_its_cost():
    found = compare(runs(CLEAR))
    assert found.winner == "ratio=0.75" and found.no_winner == ""
    said = "\n".join(table.verdict(found))
    assert "winner by probe/linear: ratio=0.75, in 51 s a run" in said
    assert (
        "minus ratio=0.6: +0.1003 [" in said and "told apart with 3 seeds; a run of ratio=0.75 takes 51 s, of ratio=0.6 41 s (+24%)" in said
    )
    assert "paired by seed" in said


def test_nobody_wins_within_the_spread_and_the_cheapest_is_told():
    found = compare(runs(CLOSE))
    assert found.winner is None and found.best == "ratio=0.75"
    said = "\n".join(table.verdict(found))
    assert "not told apart from ratio=0.6 with 3 seeds" in said
    assert "the cheapest of those not told apart: ratio=0.6, 41 s a run" in said


def test_one_seed_names_no_winner_and_says_so():
    found = compare(runs({place: scores[:1] for place, scores in CLEAR.items()}))
    assert found.winner is None and "one seed shows no spread" in found.no_winner
    assert "(one seed)" in "\n".join(table.verdict(found))


def test_without_labels_or_captions_nobody_wins():
    found = compare(runs(CLEAR, tag="features/deviation", labelled=False))
    assert found.winner is None and found.score is None
    assert "neither labels nor captions" in found.no_winner
    assert "have to be on" in compare(runs(CLEAR, tag="features/deviation")).no_winner  # labels, but no probe


def test_recall_ranks_a_run_with_captions_and_another_tag_where_it_is_asked_for():
    found = compare(runs(CLEAR, tag="val/image_text/text_to_image_r1", labelled=None))
    assert found.winner == "ratio=0.75" and found.score == "val/image_text/text_to_image_r1"
    assert compare(runs(CLEAR), by="probe/knn").score == "probe/knn"
    assert "not every finished run has nothing" in compare(runs(CLEAR), by="nothing").no_winner


def test_a_loss_that_means_another_thing_is_blank_with_its_reason_beside_it():
    found = compare(runs(CLEAR))
    assert [row[table.rows(found)[0].index("val/loss")] for row in table.rows(found)[1:]] == ["-"] * 3
    assert any("val/loss is left out" in line and "ratio: another mask" in line for line in table.notes(found))
    rows = list(csv.DictReader(io.StringIO(table.table_csv(found))))
    assert {row["val/loss"] for row in rows} == {""} and all("another mask" in row["val/loss left out because"] for row in rows)
    assert "0.5000" not in table.markdown(found, "command")


def test_a_loss_that_means_the_same_is_shown():
    same = [config(0.75), config(0.75), config(0.75)]
    found = compare(runs(CLEAR, vary="model.encoder.width=32,64,96", configs=same))
    assert [row[-3] for row in table.rows(found)] == ["val/loss", "0.5000 ± 0.0000", "1.5000 ± 0.0000", "2.5000 ± 0.0000"]
    assert not found.no_loss


def test_scores_of_other_pictures_have_no_winner():
    configs = [config(0.75, data={"path": name}) for name in "abc"]
    found = compare(runs(CLEAR, vary="data.path=a,b,c", configs=configs))
    assert found.winner is None and "the held-out pictures are others" in found.no_winner and table.verdict(found)[1:] == []


def test_probes_of_differently_many_pictures_have_no_winner():
    outcomes = [Outcome(**(vars(one) | {"images": 4000 if one.job.seed else 8000})) for one in runs(CLEAR)]
    assert "--probes.pictures 1000" in compare(outcomes).no_winner
    enough = [Outcome(**(vars(one) | {"images": 8000 if one.job.seed else 9000})) for one in runs(CLEAR)]
    assert compare(enough).winner == "ratio=0.75"


@pytest.mark.parametrize(
    "images, pictures, share", [(100, 2000, 1.0), (5000, 2000, 1.0), (5001, 2000, 0.3), (9e4, 2000, 0.03), (9e4, 50, 0.03)]
)
def test_the_probes_own_rule_is_the_one_that_is_checked(images, pictures, share):
    from mae_vlm.callbacks.probes import Probes

    assert probed(images, pictures, share) == Probes(pictures=pictures, time_share=share).count_for(images)


def test_failed_runs_are_told_and_the_others_compared():
    found = compare(runs({0: [0.40, 0.41, None], 1: CLEAR[1], 2: [None, None, None]}))
    assert [row[1] for row in table.rows(found)] == ["runs", "2/3", "3/3", "0/3"]
    assert found.against.keys() == {"ratio=0.6"} and found.against["ratio=0.6"].seeds == 2
    assert sum("failed: ratio=0.9 seed" in line and "no memory" in line for line in table.notes(found)) == 3
    assert compare(runs({0: [None], 1: [None]})).no_winner == "no run has finished"
    assert compare(runs({0: [0.1, 0.2], 1: [None, None]})).no_winner == "only one choice has finished runs"


def test_a_seed_that_only_one_choice_has_wins_nothing():
    """Seed 2 is an easy one: the mean of the choice that has it is the highest, and on the seeds that both have it is the lower one."""
    found = compare(runs({0: [0.30, 0.31, 0.90], 1: [0.40, 0.4101, None]}))
    assert found.best == "ratio=0.75" and found.against["ratio=0.6"].mean > 0 and found.against["ratio=0.6"].seeds == 2


def test_the_markdown_table_has_as_many_cells_in_every_row():
    text = table.markdown(compare(runs(CLEAR)), "python -m mae_vlm ablate ...")
    drawn = [line for line in text.splitlines() if line.startswith("|")]
    assert len(drawn) == 5 and len({line.count("|") for line in drawn}) == 1


def test_the_plot_has_a_dot_for_every_run_twice_and_is_whole_xml():
    drawn = svg(compare(runs(CLEAR)))
    root = ElementTree.fromstring(drawn)
    dots = [one for one in root.iter("{http://www.w3.org/2000/svg}circle") if one.get("fill") != "none"]
    assert len(dots) == 2 * 9
    width, height = float(root.get("width")), float(root.get("height"))
    assert all(0 < float(dot.get("cx")) < width and 0 < float(dot.get("cy")) < height for dot in dots)
    assert "winner: ratio=0.75" in drawn


def test_nothing_is_drawn_where_no_number_may_be_compared():
    assert svg(compare(runs(CLEAR, tag="features/deviation", labelled=False))) is None


@pytest.mark.parametrize("low, high", [(0.1, 0.9), (0.4113, 0.4119), (-3.0, 5.0), (900.0, 12000.0)])
def test_ticks_are_few_and_within(low, high):
    ticks = Axis(low, high, 0, 100).ticks()
    assert 3 <= len(ticks) <= 7 and all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
