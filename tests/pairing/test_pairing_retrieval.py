"""Recall, ranks and the second look, by hand-made embeddings and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from process_pool import on_pool
from torch.nn import functional

from mae_vlm.pairing import retrieval
from mae_vlm.pairing.retrieval import Retrieval, Told


def _set(pictures=9, texts=23, seed=0):
    """Embeddings of pictures and texts, whose each text is, and what it says: some say the same of two pictures, one picture has none."""
    draw = torch.Generator().manual_seed(seed)
    image = functional.normalize(torch.randn(pictures, 4, generator=draw), dim=1)
    text = functional.normalize(torch.randn(texts, 4, generator=draw), dim=1)
    owner = torch.randint(0, pictures - 1, (texts,), generator=draw).sort().values
    said = torch.randint(100, 100 + 2 * texts // 3, (texts,), generator=draw)
    return image, text, owner, said


def _plain(image, text, owner, said):
    """The ranks of a loop over queries: how many wrong ones are at least as near as the best right one."""
    texts, images = [], []
    tells = {(int(p), int(w)) for p, w in zip(owner, said, strict=True)}
    for r in range(len(text)):
        near = image @ text[r]
        right = torch.tensor([(g, int(said[r])) in tells for g in range(len(image))])
        texts.append(int(((near >= near[right].max()) & ~right).sum()))
    for g in sorted(set(owner.tolist())):
        near = text @ image[g]
        right = torch.tensor([(g, int(w)) in tells for w in said])
        images.append(int(((near >= near[right].max()) & ~right).sum()))
    return np.array(texts), np.array(images)


def _filled(metric, image, text, owner, said, part=slice(None), **more):
    """The metric after an update with the pictures of ``part`` and their texts; names are other numbers than places."""
    who = torch.arange(len(image)) * 7 - 30
    mine = torch.zeros(len(image), dtype=torch.bool)
    mine[part] = True
    own = mine[owner]
    metric.update(image[mine], who[mine], text[own], who[owner[own]], said[own], **more)
    return metric


@pytest.mark.parametrize("cells", [1, 60, 1 << 24])
def test_recall_and_median_rank_are_those_of_a_plain_loop(cells, monkeypatch):
    monkeypatch.setattr(retrieval, "_CELLS", cells)
    parts = _set()
    texts, images = _plain(*parts)
    found = _filled(Retrieval(), *parts).compute()
    for name, ranks in (("text_to_image", texts), ("image_to_text", images)):
        for k in (1, 5, 10):
            assert found[f"{name}_r{k}"].item() == pytest.approx(float((ranks < k).mean())), (name, k)
        assert found[f"{name}_median_rank"].item() == sorted(ranks + 1)[(len(ranks) - 1) // 2]
    assert 0 < found["text_to_image_r1"] < 1 and 0 < found["image_to_text_r1"] < 1  # the set tells something
    six = [found[f"{name}_r{k}"].item() for name in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
    assert found["recall_mean"].item() == pytest.approx(np.mean(six))


def test_any_of_a_pictures_captions_counts_and_each_caption_asks():
    image = torch.eye(3)
    text = functional.normalize(torch.tensor([[0.0, 1, 0.1], [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]), dim=1)
    found = _filled(Retrieval(), image, text, torch.tensor([0, 0, 1, 2]), torch.arange(4)).compute()
    assert found["text_to_image_r1"].item() == 0.75  # the first caption lies beside another picture
    assert found["image_to_text_r1"].item() == 1.0


def test_what_says_the_same_words_is_right_too():
    image, text = torch.eye(3), torch.eye(3)[[1, 0, 2]]
    apart = _filled(Retrieval(), image, text, torch.arange(3), torch.tensor([5, 6, 7])).compute()
    alike = _filled(Retrieval(), image, text, torch.arange(3), torch.tensor([5, 5, 7])).compute()
    assert apart["text_to_image_r1"].item() == pytest.approx(1 / 3) and alike["text_to_image_r1"].item() == 1.0
    assert apart["image_to_text_r1"].item() == pytest.approx(1 / 3) and alike["image_to_text_r1"].item() == 1.0


def test_features_that_are_all_the_same_find_nothing():
    same = torch.ones(12, 4) / 2
    found = _filled(Retrieval(), same, same, torch.arange(12), torch.arange(12)).compute()
    assert found["recall_mean"].item() == 0.0 and found["text_to_image_median_rank"].item() == 12


def test_a_set_without_any_caption_is_no_fault():
    metric = Retrieval()
    nobody = torch.zeros(0, dtype=torch.int64)
    metric.update(torch.eye(2), torch.arange(2), torch.zeros(0, 2), nobody, nobody)
    assert metric.compute()["recall_mean"].item() == 0.0


def _judged(tokens_KTD, told):
    """2 where the number in the picture's token is the text's first, else 0; with padding that must not be looked at."""
    assert bool((told.length_K <= told.ids_KT.shape[1]).all())
    return 2.0 * (tokens_KTD[:, 0, 0].round().long() == told.ids_KT[:, 0]).float()


def _second(rerank, parts=None, part=slice(None)):
    image, text, owner, said = parts or _set()
    mine = torch.zeros(len(image), dtype=torch.bool)
    mine[part] = True
    words = Told(torch.stack([owner, owner * 0 + 1], dim=1)[mine[owner]], (owner * 0 + 2)[mine[owner]])
    tokens = torch.arange(len(image)).float()[mine][:, None, None]
    metric = Retrieval(rerank)
    return _filled(metric, image, text, owner, said, part, tokens_BTD=tokens, words=words, judge=_judged)


def test_a_perfect_second_look_at_all_finds_all_and_tells_what_it_is_worth():
    found, before = _second(23).compute(), _filled(Retrieval(), *_set()).compute()
    assert found["text_to_image_r1"].item() == found["image_to_text_r1"].item() == 1.0
    assert found["recall_mean_unranked"].item() == before["recall_mean"].item() < found["recall_mean"].item()


def test_a_second_look_at_few_can_only_find_what_is_among_them():
    parts = (*_set()[:3], torch.arange(23))  # the judge knows a text by its own picture alone
    found, before = _second(5, parts).compute(), _filled(Retrieval(), *parts).compute()
    for name in ("text_to_image", "image_to_text"):
        assert found[f"{name}_r1"].item() == found[f"{name}_r5"].item() == before[f"{name}_r5"].item()
        assert found[f"{name}_r10"].item() == before[f"{name}_r10"].item()


def test_a_second_look_adds_its_score_to_the_similarity():
    image, text = torch.eye(2), functional.normalize(torch.tensor([[0.6, 0.8], [0.8, 0.6]]), dim=1)  # each nearer to the other's

    def judge(weight):
        return lambda tokens, told: weight * (tokens[:, 0, 0].long() == told.ids_KT[:, 0]).float()

    for weight, right in ((0.1, 0.0), (0.3, 1.0)):  # the gap in similarity is .2
        metric = Retrieval(2)
        words = Told(torch.tensor([[0], [1]]), torch.ones(2, dtype=torch.int64))
        metric.update(
            image, torch.arange(2), text, torch.arange(2), torch.arange(2), torch.arange(2.0)[:, None, None], words, judge(weight)
        )
        assert metric.compute()["text_to_image_r1"].item() == right


def _on_two(rerank):
    """What each of two processes finds that hold other pictures each, in turn."""
    import torch.distributed as dist

    image = _set()[0]
    part = slice(dist.get_rank(), len(image), dist.get_world_size())
    metric = _second(rerank, part=part) if rerank else _filled(Retrieval(), *_set(), part)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("rerank", [0, 4])
def test_two_processes_find_what_one_finds(rerank):
    alone = _second(rerank) if rerank else _filled(Retrieval(), *_set())
    told = {name: value.item() for name, value in alone.compute().items()}
    for found in on_pool(2, _on_two, rerank):
        assert found == pytest.approx(told)
