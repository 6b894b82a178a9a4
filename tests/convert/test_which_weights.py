"""Promises of ``--model.weights`` and ``--ckpt_path``: which of them takes what, and whose towers of words win; each mistake is a line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from paper_mae import PaperMae, shaken
from test_sources_with_words import CAPTIONS, clip_folder
from tiny_runs import DATA, MACHINE, in_process

from mae_vlm.cli import continuing
from mae_vlm.cli.chooser import Chooser
from mae_vlm.convert import foreign, native
from mae_vlm.convert.conversion import convert
from mae_vlm.encoders.text.transformer import Transformer
from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.image_text import SoftmaxContrast
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.tokens.words import learn

TEXT, OTHER = "mae_vlm.encoders.text.transformer.Transformer", "mae_vlm.encoders.text.recurrent.Recurrent"


def paper(folder, name="model.pth"):
    folder.mkdir(exist_ok=True)
    torch.save({"model": shaken(PaperMae()).state_dict()}, folder / name)
    return folder


def refused(capsys, *words):
    assert in_process("fit", *MACHINE, *DATA, "--trainer.max_steps", "1", *words) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mae_vlm: error: ")]
    return line


def test_a_folder_with_one_file_of_weights_is_read_as_that_file(tmp_path):
    folder = paper(tmp_path / "out")
    (folder / "readme.txt").write_text("the paper's")
    found, alone = foreign.read(folder), foreign.read(folder / "model.pth")
    assert found.kind == "the MAE paper's code" and found.place == str(folder / "model.pth")
    assert all(torch.equal(found.weights[name], value) for name, value in alone.weights.items())
    assert native.load(folder).encode(torch.rand(1, 3, 16, 16)).shape == (1, 128)


def test_of_several_files_of_weights_nobody_chooses_one(tmp_path):
    paper(paper(tmp_path / "out"), "other.pth")
    with pytest.raises(ValueError, match=r"out holds 2 files of weights, model\.pth, other\.pth; name one of them"):
        foreign.read(tmp_path / "out")


def test_a_checkpoint_of_ours_in_pieces_is_no_folder_of_weights(tmp_path):
    (tmp_path / "last.ckpt").mkdir()
    for name in ("meta.pt", ".metadata", "__0_0.distcp"):
        (tmp_path / "last.ckpt" / name).write_bytes(b"x")
    assert foreign.read(tmp_path / "last.ckpt") is None


def test_weights_alone_are_no_checkpoint_to_go_on_from(tmp_path, capsys):
    source = paper(tmp_path / "source")
    told = refused(capsys, "--ckpt_path", source)
    assert "holds weights of the MAE paper's code, no checkpoint of a run: start from them by --model.weights" in told
    convert(str(source), "native", tmp_path / "ours")
    told = refused(capsys, "--ckpt_path", tmp_path / "ours")
    assert f"was converted (the MAE paper's code: {source / 'model.pth'}) and holds no state of a training to go on with" in told
    assert told.endswith(f"start from its weights by --model.weights {tmp_path / 'ours'}")
    told = refused(capsys, "--ckpt_path", "hf://org/name")
    assert "hf://org/name is a name on the hub, no checkpoint; start from its weights by --model.weights" in told


# -- whose towers of words win


def chosen(own, explicit=()):
    there = {"class_path": TEXT, "init_args": {"vocabulary": "v.json"}}
    config = {"model": {"class_path": continuing.PRETRAINER, "init_args": {"text": own}}}
    c = Chooser(config, SimpleNamespace(), SimpleNamespace())
    continuing.words_as(c, {"text": there}, "RUN", frozenset(explicit))
    (choice,) = c.choices
    return config["model"]["init_args"]["text"] == there, choice.reason


def test_a_text_tower_that_is_only_named_is_the_one_of_the_weights():
    assert chosen({"class_path": TEXT, "init_args": {}}, ["model.text", "model.text.class_path"]) == (
        True,
        "with its options and vocabulary as in RUN",
    )


def test_a_text_tower_with_an_option_set_here_wins_and_says_so():
    taken, why = chosen({"class_path": TEXT, "init_args": {"length": 9}}, ["model.text", "model.text.length"])
    assert not taken and why == "with its options set here, which win over those of RUN as model.text.length is set; set none to take them"


def test_an_option_set_as_it_is_there_changes_nothing():
    said = ["model.text", "model.text.vocabulary"]
    assert chosen({"class_path": TEXT, "init_args": {"vocabulary": "v.json", "length": 9}}, said)[0]


def test_a_text_tower_of_another_class_wins_and_says_so():
    taken, why = chosen({"class_path": OTHER, "init_args": {}}, ["model.text"])
    assert not taken and why == "named here, and wins over the Transformer of RUN, whose weights stay behind; name that class to take them"


def test_weights_of_words_under_another_vocabulary_are_not_taken(tmp_path):
    clip_folder(tmp_path)
    (options,) = [native.stated_words(tmp_path)[0]["text"]["init_args"]]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text(learn([text[::-1] for text in CAPTIONS], 320, kind="bpe").json)

    def adopted(vocabulary):
        text = Transformer(**options | {"vocabulary": str(vocabulary)})
        vit = Vit(width=32, depth=2, heads=4, patch=4, mlp_ratio=2, image_size=16)
        parts = {"contrast": lambda towers: SoftmaxContrast(towers, pool="end")}
        model = Pretrainer(vit, RandomMask(), parts, AdamW(), text=text, weights=str(tmp_path))
        before = text.word_table.weight.clone()
        try:
            told = continuing._adopt_words(model, str(tmp_path))
        except ValueError as problem:
            told = str(problem)
        return told, bool(torch.equal(before, text.word_table.weight))

    told, untouched = adopted(tmp_path / "other")
    assert untouched and "begin anew, as the vocabulary there is another" in told
    told, untouched = adopted(tmp_path)
    assert not untouched and "towers of words: 36 weights taken, missing there and new: joint" in told
