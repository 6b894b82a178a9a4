"""What an ablation plans: the product of the values, the words of each run, and one-line complaints about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from mae_vlm.ablation.plan import Job, Length, check_given, choices, jobs, short_names

RATIO = "model.masking.init_args.ratio=0.6,0.75"


def test_several_keys_make_the_product():
    made = choices([RATIO, "model.encoder.depth=6,12"])
    assert [one.label for one in made] == ["ratio=0.6 depth=6", "ratio=0.6 depth=12", "ratio=0.75 depth=6", "ratio=0.75 depth=12"]
    assert made[0].options == (("model.masking.init_args.ratio", "0.6"), ("model.encoder.depth", "6"))


@pytest.mark.parametrize(
    "text, values",
    [
        ("a=[1,2],[3, 4]", ["[1,2]", "[3, 4]"]),
        ("a={x: 1, y: 2},null", ["{x: 1, y: 2}", "null"]),
        ("a='p,q',r", ["'p,q'", "r"]),
        ("a=b=c,d", ["b=c", "d"]),
        ("--a=1,2", ["1", "2"]),
    ],
)
def test_commas_within_brackets_and_quotes_part_nothing(text, values):
    assert [dict(one.options)["a"] for one in choices([text])] == values


@pytest.mark.parametrize(
    "words, said",
    [
        (["ratio"], "takes KEY=V1,V2"),
        (["=1,2"], "takes KEY=V1,V2"),
        (["a=1,2", "a=3"], "--vary a given twice"),
        (["a=1,,2"], "a value is empty"),
        (["a=1,2,1"], "1 given twice"),
        (["a=[1,2"], "not a YAML value"),
        (["a=1"], "give at least two values"),
        (["seed_everything=1,2"], "--seeds N varies the seed"),
        (["trainer.default_root_dir=a,b"], "ablate sets it itself"),
    ],
)
def test_what_cannot_be_varied_is_told_in_one_line(words, said):
    with pytest.raises(ValueError) as problem:
        choices(words)
    assert said in str(problem.value) and "\n" not in str(problem.value)


@pytest.mark.parametrize(
    "given, length, said",
    [
        (["--name", "x"], Length(), "--name given, which ablate sets itself"),
        (["--seed_everything=3"], Length(), "--seeds N"),
        (["--trainer.max_steps=3"], Length(steps=5), "--steps or --minutes"),
        (["--trainer.max_epochs", "3"], Length(minutes=5), "--steps or --minutes"),
    ],
)
def test_what_ablate_sets_itself_is_refused(given, length, said):
    with pytest.raises(ValueError) as problem:
        check_given(given, length, choices([RATIO]))
    assert said in str(problem.value)


def test_a_length_of_fit_is_taken_where_ablate_has_none():
    check_given(["--trainer.max_epochs", "3"], Length(), choices([RATIO]))
    with pytest.raises(ValueError, match="leave those out"):
        check_given([], Length(steps=3), choices(["trainer.max_steps=5,10"]))


def test_every_choice_has_a_seed_before_any_has_the_next():
    planned = jobs(choices([RATIO]), 2, Path("out"))
    assert [(one.choice.label, one.seed) for one in planned] == [("ratio=0.6", 0), ("ratio=0.75", 0), ("ratio=0.6", 1), ("ratio=0.75", 1)]


def test_the_varied_option_stands_last_and_a_varied_config_first():
    job = Job(choices(["config=a.yaml,b.yaml", "data.flip=0,1"])[0], 4, Path("out"))
    words = job.words(["--data.flip=0.5"], Length(steps=9))
    assert words[:2] == ["fit", "--config=a.yaml"] and words.index("--data.flip=0") > words.index("--data.flip=0.5")
    assert {"--trainer.max_steps=9", "--trainer.max_epochs=null", "--seed_everything=4", "--ckpt_path=auto", "--name=seed_4"} <= set(words)


def test_a_run_cut_off_keeps_the_steps_that_its_minutes_had_planned():
    assert Length(minutes=90.5).words() == ["--trainer.max_steps=-1", "--trainer.max_epochs=null", "--trainer.max_time=00:01:30:30"]
    assert "--trainer.max_steps=321" in Length(minutes=2).words(begun=321)


def test_an_option_that_was_said_is_not_said_again():
    job = Job(choices([RATIO])[0], 0, Path("out"))
    assert not any(word.startswith("--probes.time_share=1") for word in job.words(["--probes.time_share", "0.5"], Length()))
    assert "--probes.time_share=1" in job.words([], Length())


def test_names_of_folders_never_collide_and_stay_short():
    long = "x" * 300
    made = choices([f"a=p/q,p_q,{long}1,{long}2"])
    names = [one.folder for one in made]
    assert len(set(names)) == 4 and all(len(name) < 100 and "/" not in name for name in names)


def test_short_names_are_the_shortest_ends_that_differ():
    assert short_names(["model.encoder.width", "data.flip"]) == ["width", "flip"]
    assert short_names(["model.encoder.width", "model.pixels.width"]) == ["encoder.width", "pixels.width"]
