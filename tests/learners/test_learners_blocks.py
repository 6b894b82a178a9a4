"""What is sharded and compiled one by one: blocks of pictures, and the layers of towers of words."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captioned import a_batch, a_text, an_image, stirred, towers
from process_pool import on_pool

from mae_vlm.encoders.fusion.additive import Additive
from mae_vlm.encoders.fusion.coattention import CoAttention
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.early import Early
from mae_vlm.encoders.fusion.late import Late
from mae_vlm.encoders.text.recurrent import Recurrent
from mae_vlm.learners.blocks import blocks, compile_blocks

IMAGE = ["image.vit.blocks.0", "image.vit.blocks.1"]
LAYERS = {
    "cross": (CrossAttention, {"depth": 2, "heads": 2}, ["fusion.layers.layer.0", "fusion.layers.layer.1"]),
    "coattention": (CoAttention, {"depth": 2, "heads": 2}, ["fusion.texts.0", "fusion.texts.1", "fusion.pictures.0"]),
    "additive": (Additive, {"rounds": 2}, ["fusion.rounds.0", "fusion.rounds.1"]),
    "late": (Late, {}, []),
    "early": (Early, {}, []),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_of_towers_of_words_are_among_the_blocks(case):
    fusion, options, wanted = LAYERS[case]
    house = towers(fusion, **options)
    names = {module: name for name, module in house.named_modules()}
    assert [names[block] for block in blocks(house)] == [*IMAGE, "text.model.encoder.layer.0", *wanted]


@pytest.mark.parametrize(
    "config, place",
    [
        ({"model_type": "distilbert", "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}, "model.transformer.layer"),
        ({"model_type": "clip_text_model", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}, "encoder.layers"),
    ],
    ids=["distilbert", "clip"],
)
def test_other_models_of_transformers_have_their_layers_there_too(config, place):
    tower = a_text(config=config)
    names = {module: name for name, module in tower.named_modules()}
    found = [names[block] for block in blocks(tower)]
    assert len(found) == 2 and all(place in name for name in found)


def test_recurrent_layers_are_left_as_they_are(tmp_path):
    from captioned import vocabulary_file

    assert blocks(Recurrent(vocabulary=vocabulary_file(tmp_path), width=8)) == []


def test_layers_of_words_are_compiled_once_for_any_number_of_rows_and_tokens():
    house, graphs = towers(CrossAttention, depth=1, heads=2).train(), []
    plain = {}

    def asked(count):
        rows = house.text.rows([["a ring " * count]] * (count - 1) + [["a"]])  # some padding: without any, transformers leaves the mask out
        text = house.text(rows.words)
        return house.fusion(house.image.full(torch.zeros(count, 3, 32, 32, dtype=torch.float64)), text).tokens_BTD

    for count in (3, 2, 5, 7):
        plain[count] = asked(count)

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_blocks(torch.nn.ModuleList([house.text, house.fusion]), counting)
    torch._dynamo.reset()
    for number, count in enumerate((3, 2, 5, 7)):
        torch.testing.assert_close(asked(count), plain[count])
        assert number or graphs, "nothing was compiled"
        assert len(graphs) <= 2, f"{len(graphs)} graphs for {count} rows"
    torch._dynamo.reset()


def looking_again(rerank: int) -> dict[str, float]:
    """On each process: sharded, it validates pictures that it has more of than others, with more captions, and looks at pairs again."""
    import torch.distributed as dist
    from torch.distributed.fsdp import FSDPModule

    from mae_vlm.heads import retrieve
    from mae_vlm.learners.finetune import Finetuner
    from mae_vlm.learners.optim import AdamW
    from mae_vlm.learners.sharding import shard
    from mae_vlm.pairing import retrieval

    retrieve._AT_ONCE = retrieval._AT_ONCE = 2  # many passes of the towers, of which each process has its own number
    torch.manual_seed(0)
    heads = {"retrieve": partial(retrieve.Retrieve, width=8, rerank=rerank)}
    fusion = partial(CrossAttention, depth=1, heads=2)
    model = stirred(Finetuner(an_image(), heads, AdamW(base_lr=1e-3), a_text(), fusion).double()).eval()
    model.log = lambda *given, **named: None
    whole, parts = a_batch(), [slice(0, 16)]
    if dist.is_initialized():
        shard(model, torch.device("cpu"))
        units = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
        assert {"towers.text.model.encoder.layer.0", "towers.fusion.layers.layer.0"} <= {*units}
        parts = [slice(0, 8)] if dist.get_rank() == 0 else [slice(8, 16)]  # of the second eight one has captions
    with torch.no_grad():
        for number, part in enumerate(parts):
            model.validation_step(whole[part], number)
        model.on_validation_epoch_end()
    return {name: value.item() for name, value in model.results["retrieve"].items()}


def test_processes_that_look_at_unequal_numbers_of_texts_and_pairs_wait_for_nobody():
    told = looking_again_alone()
    for found in on_pool(2, looking_again, 3):
        assert found == pytest.approx(told)


def looking_again_alone():
    from mae_vlm.heads import retrieve
    from mae_vlm.pairing import retrieval

    kept = retrieve._AT_ONCE, retrieval._AT_ONCE
    try:
        return looking_again(3)
    finally:
        retrieve._AT_ONCE, retrieval._AT_ONCE = kept
