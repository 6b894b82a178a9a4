"""Promises of mae_vlm.tokens.words."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest
import tokenizers
import torch
import transformers

from mae_vlm.tokens.words import Vocabulary, learn, read

TEXTS = [
    "A red square above a blue circle.", "Two green stars, and a ring!", "a yellow cross left of a red ring", "Café au lait: naïve squares",
    "一个红色的正方形", "蓝色的圆在左边", "squares, circles and crosses; squared circles",
]  # fmt: skip
_KINDS = (("wordpiece", 90), ("bpe", 320))  # so few tokens that ties decide which there are
_LEARN = f"import json; from mae_vlm.tokens.words import learn; print(json.dumps([learn({TEXTS!r}, n, kind).json for kind, n in {_KINDS}]))"


def test_a_vocabulary_learned_in_any_process_is_the_same():
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _LEARN], env=os.environ | {"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, encoding="utf-8"
        )
        for seed in ("1", "2")
    ]
    told = [json.loads(process.communicate()[0]) for process in running]
    assert told[0] == told[1] == [learn(TEXTS, size, kind).json for kind, size in _KINDS]
    assert all(len(one) > 1000 for one in told[0])


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_known_texts_come_back(kind):
    vocabulary = learn(TEXTS, 1000, kind)
    words = vocabulary.encode(TEXTS, 40)
    found = [vocabulary.decode(ids) for ids in words.ids_BT.tolist()]
    if kind == "bpe":
        assert found == [text.lower() for text in TEXTS]
    else:
        assert found[0] == "a red square above a blue circle." and found[3] == "cafe au lait : naive squares"
        assert found[4].replace(" ", "") == TEXTS[4]  # Chinese is read letter by letter


def test_byte_pairs_know_every_letter_and_pieces_do_not():
    strange = ["Ünïcödé 🦆 текст"]
    bpe = learn(TEXTS, 320, "bpe")
    assert bpe.decode(bpe.encode(strange, 60).ids_BT[0].tolist()) == strange[0].lower()
    pieces = learn(TEXTS, 320)
    assert pieces.encode(["🦆"], 8).ids_BT[0, 1] == pieces.tokenizer.token_to_id("[UNK]")


def test_case_is_kept_where_it_shall_be():
    for kind in ("wordpiece", "bpe"):
        vocabulary = learn(TEXTS, 1000, kind, lowercase=False)
        assert vocabulary.decode(vocabulary.encode(["Two green"], 20).ids_BT[0].tolist()) == "Two green"


def test_chinese_letters_are_words_of_their_own_to_pieces():
    vocabulary = learn(TEXTS, 1000)
    words = vocabulary.encode(["红色的圆"], 16)
    assert words.word_BT[0].tolist() == [-1, 0, 1, 2, 3, -1, -1, -1]
    assert vocabulary.tokenizer.token_to_id("[UNK]") not in words.ids_BT


def test_a_text_is_begin_tokens_end_and_padding():
    vocabulary = learn(TEXTS, 1000)
    words = vocabulary.encode(["a red ring", None, "", "a red ring a red ring a red ring"], 10)
    assert words.ids_BT.shape == (4, 10) and words.has_B.tolist() == [True, False, False, True]
    assert words.real_BT.sum(1).tolist() == [5, 2, 2, 10]
    for row, ids in enumerate(words.ids_BT.tolist()):
        real = int(words.real_BT[row].sum())
        assert ids[0] == vocabulary.begin and ids[real - 1] == vocabulary.end and set(ids[real:]) <= {vocabulary.pad}
    assert words.word_BT[0].tolist() == [-1, 0, 1, 2, -1, -1, -1, -1, -1, -1]
    assert torch.equal(words.word_BT[3, 1:9], torch.arange(8))


def test_texts_are_padded_to_few_lengths_and_never_beyond_the_limit():
    vocabulary = learn(TEXTS, 1000)
    assert vocabulary.encode(["a"], 32).ids_BT.shape == (1, 8)
    assert vocabulary.encode(["a red ring a red ring a red"], 32).ids_BT.shape == (1, 16)
    assert vocabulary.encode(["a red ring a red ring a red"], 11).ids_BT.shape == (1, 11)
    assert vocabulary.encode([], 32).ids_BT.shape == (0, 8)


def test_words_of_several_tokens_have_one_number():
    vocabulary = learn(["abc de", "bc", "e d c b a"], 60)
    assert vocabulary.encode(["cab e"], 16).word_BT[0].tolist()[:6] == [-1, 0, 0, 0, 1, -1]


def test_a_longer_padding_keeps_the_texts():
    vocabulary = learn(TEXTS, 1000)
    words = vocabulary.encode(["a red ring", None], 32)
    longer = words.padded(20, vocabulary.pad)
    assert (
        longer.ids_BT.shape == (2, 20)
        and torch.equal(longer.ids_BT[:, :8], words.ids_BT)
        and (longer.ids_BT[:, 8:] == vocabulary.pad).all()
    )
    assert not longer.real_BT[:, 8:].any() and (longer.word_BT[:, 8:] == -1).all() and torch.equal(longer.has_B, words.has_B)
    assert torch.equal(longer.padded(8, vocabulary.pad).ids_BT, words.ids_BT)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_the_letters_of_a_special_token_in_a_caption_are_letters(kind):
    vocabulary = learn([*TEXTS, "[mask] [sep] [cls] [pad]"], 1000, kind)
    for text in ("a [MASK] ring", "[SEP]", "[PAD] and [CLS]"):
        ids = vocabulary.encode([text], 60).ids_BT[0].tolist()
        inner = ids[1 : ids.index(vocabulary.end)]
        assert inner and not set(inner) & set(vocabulary.special), text
        assert vocabulary.decode(ids).replace(" ", "") == text.lower().replace(" ", "")


def test_special_tokens_are_numbered_and_hold_through_a_file(tmp_path):
    for kind in ("wordpiece", "bpe"):
        vocabulary = learn(TEXTS, 400, kind)
        assert (vocabulary.pad, vocabulary.begin, vocabulary.end, vocabulary.mask) == (0, 2, 3, 4) and vocabulary.special == [0, 1, 2, 3, 4]
        (tmp_path / "tokenizer.json").write_text(vocabulary.json, encoding="utf-8")
        for place in (tmp_path, tmp_path / "tokenizer.json"):
            again = read(place)
            assert again.json == vocabulary.json and len(again) == len(vocabulary)
            assert torch.equal(again.encode([*TEXTS, "[MASK]"], 60).ids_BT, vocabulary.encode([*TEXTS, "[MASK]"], 60).ids_BT)
        copy = pickle.loads(pickle.dumps(vocabulary))
        assert copy.json == vocabulary.json and copy.special == vocabulary.special


def test_berts_vocab_txt_is_read_as_bert_reads_it(tmp_path):
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "##s", "square", ",", "红", "cafe"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    theirs = transformers.BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, do_lower_case=True)
    for place in (tmp_path, tmp_path / "vocab.txt"):
        vocabulary = read(str(place))
        for text in ("A red squares, Café 红红 [UNK", "squares"):
            ids = vocabulary.encode([text], 24).ids_BT[0].tolist()
            assert [one for one in ids if one != vocabulary.pad] == theirs(text)["input_ids"]
    assert (vocabulary.pad, vocabulary.begin, vocabulary.end, vocabulary.mask) == (0, 3, 4, 5)


def test_a_vocab_txt_with_capitals_keeps_case(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Red", "red"]), encoding="utf-8")
    assert read(tmp_path).encode(["Red red"], 8).ids_BT[0, 1:3].tolist() == [5, 6]


def test_tokenizers_of_other_families_bring_their_own_special_tokens():
    for called, special in (
        (["<s>", "<pad>", "</s>", "<unk>", "<mask>"], (0, 1, 2, 4)),  # RoBERTa
        (["<|startoftext|>", "<|endoftext|>"], (0, 1, 1, None)),  # CLIP pads with its end
        (["<|endoftext|>"], (0, 0, 0, None)),  # GPT-2 begins with it as well
    ):
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({name: number for number, name in enumerate([*called, "a", "b"])}, unk_token=called[0])
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        vocabulary = Vocabulary(tokenizer)
        begin, pad, end, mask = special
        assert (vocabulary.begin, vocabulary.pad, vocabulary.end, vocabulary.mask) == (begin, pad, end, mask)
        words = vocabulary.encode(["a b"], 8)
        assert words.real_BT.sum() == 4 and words.ids_BT[0, 3] == vocabulary.end


def test_a_tokenizers_own_padding_and_truncation_do_not_interfere():
    plain = learn(TEXTS, 400)
    tokenizer = pickle.loads(pickle.dumps(plain)).tokenizer
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=12)
    assert torch.equal(Vocabulary(tokenizer).encode(TEXTS, 40).ids_BT, plain.encode(TEXTS, 40).ids_BT)


def test_mistakes_are_told_in_one_line(tmp_path):
    (tmp_path / "broken.json").write_text("{}")
    (tmp_path / "other.txt").write_text("a\nb\n")
    (tmp_path / "plain.json").write_text(learn(TEXTS, 400).json.replace("[CLS]", "[WHO]"))
    for act, says in (
        (lambda: read(tmp_path / "absent"), "no tokenizer.json or vocab.txt there; python -m mae_vlm vocabulary"),
        (lambda: read(tmp_path / "broken.json"), "is no tokenizer.json"),
        (lambda: read(tmp_path / "other.txt"), r"lists 2 tokens and no \[UNK\] among them"),
        (lambda: read(tmp_path / "plain.json"), r"no token for the begin and end of a text; known are \[CLS\], \[SEP\]"),
        (lambda: learn(TEXTS, 400, "unigram"), "kind 'unigram' given, allowed are wordpiece, bpe, words"),
        (lambda: learn(TEXTS, 20), "a vocabulary of 20 tokens given, allowed are 50 or more"),
        (lambda: learn(TEXTS, 260, "bpe"), "a vocabulary of 260 tokens given, allowed are 300 or more"),
    ):
        with pytest.raises(ValueError, match=says) as told:
            act()
        assert "\n" not in str(told.value)
