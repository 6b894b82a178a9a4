"""The vocabulary of a run on machines that do not share a cache."""

from pathlib import Path

import pytest

from mae_vlm.cli import wording
from mae_vlm.data import captions
from mae_vlm.data.sources.scenes import Scenes
from mae_vlm.tokens.words import learn

TEXT = "mae_vlm.encoders.text.transformer.Transformer"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Takes one to another machine, which sees nothing of the last one's cache."""

    def machine(name):
        for seen in tmp_path.glob("*"):
            seen.rename(seen.with_name(f"not seen from {name}"))
        monkeypatch.setenv("MAE_VLM_CACHE", str(tmp_path / name))

    machine("first")
    return machine


def config(place):
    return {"model": {"init_args": {"text": {"class_path": TEXT, "init_args": {"vocabulary": str(place)}}}}}


def present(place, train) -> Path:
    found = config(place)
    wording.present(found, train)
    return Path(found["model"]["init_args"]["text"]["init_args"]["vocabulary"])


def nothing():
    raise AssertionError("the collection is not to be read")


def test_another_machine_learns_the_same_one_from_the_same_captions(cache):
    train = Scenes(12)
    vocabulary = captions.learned(train).json
    place = captions.kept(vocabulary)
    assert present(place, nothing) == place
    cache("second")
    here = present(place, lambda: train)
    assert here != place and here.read_text(encoding="utf-8") == vocabulary


def test_what_a_checkpoint_has_brought_to_a_machine_stays_whatever_the_captions_are(cache):
    json = learn(["words that no scene has"]).json
    place = captions.kept(json)
    cache("second")
    brought = captions.kept(json)
    assert present(place, nothing) == brought and brought != place


def test_no_other_vocabulary_takes_the_place_of_one_that_is_gone(cache):
    place = captions.kept(learn(["words that no scene has"]).json)
    cache("second")
    with pytest.raises(ValueError, match="is gone, and the captions here give another one") as told:
        present(place, lambda: Scenes(12))
    assert "\n" not in str(told.value)
