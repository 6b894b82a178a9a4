"""Promises of the recurrent text tower and of the files of word vectors that it begins from."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from captioned import stirred

from mae_vlm.encoders.text.recurrent import Recurrent
from mae_vlm.encoders.text.vectors import VectorFile, known, words_of
from mae_vlm.tokens.masked_words import mask_words
from mae_vlm.tokens.words import UNKNOWN, learn

TEXTS = ["a red square", "a large blue circle on the left side", None]
WORDS = {"red": [1.0, -2.0, 0.5], "Blue": [4.0, 5.0, 6.0], "blue": [7.0, 8.0, 9.0], "Circle": [0.25, 0.5, 1.5], "New York": [1.0, 1.0, 1.0]}
TOWERS = {
    "gru": {"kind": "gru"},
    "lstm of two layers": {"kind": "lstm", "depth": 2},
    "gru onwards": {"kind": "gru", "bidirectional": False},
    "lstm onwards of two layers": {"kind": "lstm", "bidirectional": False, "depth": 2, "embedding": 6},
}
with_each = pytest.mark.parametrize("name", TOWERS)
with_form = pytest.mark.parametrize("form", ["glove.txt", "word2vec.txt", "word2vec.bin", "google.bin"])


def vocabulary_file(folder) -> str:
    file = folder / "words.json"
    file.write_text(learn([text for text in TEXTS if text], 100, "words").json, encoding="utf-8")
    return str(file)


def a_tower(name: str, folder) -> Recurrent:
    torch.manual_seed(0)
    return stirred(Recurrent(vocabulary_file(folder), **{"width": 16, "length": 40} | TOWERS[name]).double()).eval()


def vector_file(folder, form: str, words: dict[str, list[float]] = WORDS):
    """As GloVe, word2vec's text and binary forms write them; Google's binary tool ends each vector by a newline."""
    file, width = folder / form, len(next(iter(words.values())))
    if form.endswith(".bin"):
        end = b"\n" if form == "google.bin" else b""
        rows = [word.replace(" ", "_").encode() + b" " + struct.pack(f"<{width}f", *values) + end for word, values in words.items()]
        file.write_bytes(f"{len(words)} {width}\n".encode() + b"".join(rows))
    else:
        head = f"{len(words)} {width}\n" if form == "word2vec.txt" else ""
        file.write_text(head + "".join(f"{word} {' '.join(map(str, values))}\n" for word, values in words.items()), encoding="utf-8")
    return file


@with_each
@pytest.mark.parametrize("pool", ["first", "end", "mean"])
def test_padding_changes_nothing(name, pool, tmp_path):
    tower = a_tower(name, tmp_path)
    words = tower.words(TEXTS)
    found = tower(words)
    assert found.tokens_BTD.shape == (*words.ids_BT.shape, tower.width) and found.tokens_BTD.isfinite().all()
    longer, across = tower(words.padded(37, tower.vocabulary.pad)), words.ids_BT.shape[1]
    assert torch.allclose(longer.tokens_BTD[:, :across], found.tokens_BTD, rtol=0, atol=1e-12)
    assert torch.allclose(longer.pooled(pool), found.pooled(pool), rtol=0, atol=1e-12)
    assert torch.allclose(tower(words.rows(torch.tensor([0]))).pooled(pool), found.pooled(pool)[:1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_both_ways_are_torchs_own_over_packed_texts(kind, tmp_path):
    torch.manual_seed(0)
    tower = Recurrent(vocabulary_file(tmp_path), kind=kind, width=16, embedding=8).double()
    theirs = getattr(torch.nn, kind.upper())(8, 8, batch_first=True, bidirectional=True).double()
    layer = tower.layers[0]
    state = dict(layer.onwards.state_dict())
    theirs.load_state_dict(state | {f"{name}_reverse": value for name, value in layer.backwards.state_dict().items()})
    words = tower.words(TEXTS)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        tower.table(words.ids_BT), words.real_BT.sum(1), batch_first=True, enforce_sorted=False
    )
    wanted, _ = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True, total_length=words.ids_BT.shape[1])
    assert torch.allclose(tower(words).tokens_BTD, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["gru onwards", "lstm onwards of two layers"])
def test_onwards_no_token_sees_a_later_one(name, tmp_path):
    tower = a_tower(name, tmp_path)
    words = tower.words(["a red circle", "a red square"])
    found = tower(words, causal=True)
    difference = (found.tokens_BTD[0] - found.tokens_BTD[1]).abs().amax(-1)
    assert difference[:3].max() == 0 and difference[3] > 1e-3


def test_both_ways_it_cannot_be_causal_and_says_so(tmp_path):
    tower = a_tower("gru", tmp_path)
    words = tower.words(["a red circle", "a red square"])
    found = tower(words).tokens_BTD
    assert (found[0] - found[1]).abs().amax(-1)[0] > 1e-5
    with pytest.raises(ValueError, match=r"cannot read causally; set model\.text\.bidirectional to false"):
        tower(words, causal=True)


@with_each
def test_every_weight_has_a_gradient_and_arithmetic_is_that_of_its_products(name, tmp_path):
    tower = a_tower(name, tmp_path).train()
    tower(tower.words(TEXTS)).tokens_BTD.square().sum().backward()
    assert not [weight for weight, value in tower.named_parameters() if value.grad is None]
    products = sum(value.numel() for key, value in tower.layers.named_parameters() if value.ndim == 2)
    assert tower.flops() == 2 * 40 * products


@with_form
def test_words_begin_as_their_vectors_and_others_at_random(form, tmp_path):
    torch.manual_seed(0)
    with pytest.warns(RuntimeWarning, match="hold 3 of the vocabulary's 10 words"):
        tower = Recurrent(vocabulary_file(tmp_path), str(vector_file(tmp_path, form)), width=16)
    number, table = tower.vocabulary.tokenizer.token_to_id, tower.word_table.weight
    assert table[number("red")].tolist() == WORDS["red"]
    assert table[number("blue")].tolist() == WORDS["blue"]  # as it is written, before any other way to write it
    assert table[number("circle")].tolist() == WORDS["Circle"]
    others = torch.tensor([row for row in range(len(table)) if row not in map(number, ("red", "blue", "circle"))])
    assert table[others].std() > 0.5 and table.requires_grad


@with_form
def test_a_vocabulary_is_that_of_the_file_where_none_is_named(form, tmp_path):
    file = vector_file(tmp_path, form)
    for vocabulary in (None, str(file)):
        tower = Recurrent(vocabulary, str(file), width=16, length=8)
        assert len(tower.vocabulary) == 5 + 3 and tower.vocabulary.mask is not None
        number = tower.vocabulary.tokenizer.token_to_id
        assert [number(word) for word in ("red", "blue", "circle", "New York")] == [5, 6, 7, None]
        words = tower.words(["RED whale"])
        assert words.ids_BT[0, :4].tolist() == [tower.vocabulary.begin, 5, number(UNKNOWN), tower.vocabulary.end]
        assert tower.vocabulary.decode([5, 7]) == "red circle"
    assert len(words_of(VectorFile(file), 2)) == 5 + 2


def test_of_a_file_only_the_words_of_the_vocabulary_are_parsed(tmp_path, monkeypatch):
    many = {f"word{number}": [1.0, 2.0, 3.0] for number in range(500)} | WORDS
    parsed = []
    whole = VectorFile.numbers
    monkeypatch.setattr(VectorFile, "numbers", lambda file, written, word: parsed.append(word) or whole(file, written, word))
    known(VectorFile(vector_file(tmp_path, "word2vec.bin", many)), learn(["red blue", "circle"], 60, "words"))
    assert parsed == ["red", "Blue", "blue", "Circle"]


@with_each
def test_what_a_checkpoint_states_builds_the_same_tower_without_the_file(name, tmp_path):
    file = vector_file(tmp_path, "word2vec.bin")
    options = {"width": 16, "length": 40} | TOWERS[name] | {"embedding": None}
    tower = Recurrent(None, str(file), **options).eval()
    file.unlink()
    stated = json.loads(json.dumps(tower.stated()))
    (tmp_path / "kept.json").write_text(stated.pop("vocabulary"), encoding="utf-8")
    again = Recurrent(**{"vocabulary": str(tmp_path / "kept.json"), "vectors": str(file)} | options | stated).eval()
    again.load_state_dict(tower.state_dict())
    words = tower.words(TEXTS)
    assert torch.equal(again(words).tokens_BTD, tower(words).tokens_BTD)


def test_its_words_can_be_hidden_whole(tmp_path):
    tower = a_tower("gru", tmp_path)
    words = tower.words(TEXTS)
    masked = mask_words(words, torch.arange(3), tower.vocabulary, 0.5)
    assert masked.hidden_BS.any() and tower(masked.words).tokens_BTD.isfinite().all()


def test_a_vocabulary_of_words_holds_the_commonest():
    vocabulary = learn(["Red red blue", "red blue, circle"], 50, "words")
    assert [vocabulary.tokenizer.id_to_token(number) for number in range(5, len(vocabulary))] == ["red", "blue", ",", "circle"]
    many = learn([f"word{number} common" for number in range(90)], 50, "words")
    assert len(many) == 50 and many.tokenizer.token_to_id("common") == 5


def damaged(folder, what: str):
    text, binary = vector_file(folder, "glove.txt"), vector_file(folder, "word2vec.bin")
    whole, bits = text.read_bytes(), binary.read_bytes()
    files = {
        "gone": ("gone.txt", None),
        "empty": ("empty.txt", b""),
        "packed": ("glove.bin", b"\x1f\x8b" + bits),
        "cut text": ("cut.txt", whole.replace(b"9.0\n", b"\n")),
        "no numbers": ("odd.txt", whole.replace(b"-2.0", b"two")),
        "nan": ("nan.txt", whole.replace(b"-2.0", b"nan")),
        "fewer lines": ("fewer.txt", b"9 3\n" + whole),
        "cut bits": ("cut.bin", bits[:-30]),
        "cut between": ("between.bin", bits.replace(b"5 3\n", b"6 3\n")),
        "more bits": ("more.bin", bits.replace(b"5 3\n", b"4 3\n")),
        "text as bits": ("text.bin", b"5 3\n" + whole),
        "no head": ("head.bin", whole),
        "picture": ("picture.txt", b"\x89PNG\r\n\x1a\n" + bytes(200)),
        "strangers": ("strangers.txt", b"alpha 1 2 3\nbeta 4 5 6\n"),
    }
    name, content = files[what]
    if content is not None:
        (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("gone", "no such file; a run that goes on has them among its weights"),
        ("empty", "the first line is not a word and its numbers"),
        ("packed", "is packed; gunzip it first"),
        ("cut text", "line 3 does not hold a word and 3 numbers; is it cut off?"),
        ("no numbers", "what follows the word 'red' are not 3 numbers"),
        ("nan", "what follows the word 'red' are not 3 finite numbers"),
        ("fewer lines", "holds 5 words, its first line says 9: it is cut off or damaged"),
        ("cut bits", "word 4 of 5 is cut off or damaged"),
        ("cut between", "holds 5 words, its first line says 6"),
        ("more bits", "holds 5 words, its first line says 4"),
        ("text as bits", "cut off or damaged"),
        ("no head", "the first line is not the counts of words and numbers"),
        ("picture", "the first line is not a word and its numbers"),
        ("strangers", "hold none of the 15 words of the vocabulary"),
    ],
)
def test_a_file_that_is_cut_off_or_odd_is_told_in_one_line(what, says, tmp_path):
    with pytest.raises(ValueError, match=says) as told:
        Recurrent(vocabulary_file(tmp_path), str(damaged(tmp_path, what)), width=16)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"vocabulary": None}, "needs a vocabulary or vectors: python -m mae_vlm vocabulary --kind words"),
        ({"kind": "rnn"}, "kind 'rnn' given, allowed are gru and lstm"),
        ({"width": 15}, "width 15, embedding None, most 50000 given: all must be positive, and a width both ways even"),
        ({"length": 2}, "length 2 given: a text needs at least 3 tokens"),
        ({"dropout": 1.0}, "dropout 1.0 given, allowed is a share"),
        ({"vectors": "glove.txt", "embedding": 4}, "embedding 4 given, but vectors .* have 3 numbers; leave it open"),
    ],
)
def test_wrong_options_are_told_in_one_line(options, says, tmp_path):
    if "vectors" in options:
        options = options | {"vectors": str(vector_file(tmp_path, options["vectors"]))}
    with pytest.raises(ValueError, match=says) as told:
        Recurrent(**{"vocabulary": vocabulary_file(tmp_path)} | options)
    assert "\n" not in str(told.value)
