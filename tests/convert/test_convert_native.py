"""Promises of mae_vlm.convert.native: our checkpoints read back, and what is refused."""

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import mae_vlm
from mae_vlm.convert.native import find_checkpoint, load, read, read_encoder
from mae_vlm.encoders.vit import Vit
from mae_vlm.types import CHECKPOINT_FORMAT, CHECKPOINT_KEY

INIT = {"width": 32, "depth": 2, "heads": 4, "patch": 4, "image_size": [16, 24], "class_tokens": 2, "mean": [0.4, 0.5, 0.6]}


def encoder(**more) -> Vit:
    torch.manual_seed(0)
    built = Vit(**INIT | more).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return built


def content(built: Vit, init: dict = INIT, class_path: str = "mae_vlm.encoders.vit.Vit") -> dict:
    """A checkpoint as the docstring of types.py describes it, beside what Lightning keeps in one."""
    config = {"seed_everything": 0, "model": {"class_path": "x", "init_args": {"encoder": {"class_path": class_path, "init_args": init}}}}
    state = {f"towers.image.{name}": value for name, value in built.state_dict().items()}
    return {
        CHECKPOINT_KEY: {"format": CHECKPOINT_FORMAT, "config": yaml.safe_dump(config)},
        "state_dict": state | {"objectives.pixels.decoder.mask_token": torch.zeros(1, 1, 4)},
        "global_step": 7, "optimizer_states": [],
    }  # fmt: skip


@pytest.fixture
def run(tmp_path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    torch.save(content(encoder()), tmp_path / "checkpoints" / "last.ckpt")
    return tmp_path


def test_a_run_folder_and_its_checkpoint_give_the_same_encoder(run):
    first, second = read_encoder(run), read_encoder(run / "checkpoints" / "last.ckpt")
    assert not first.training
    for name, value in encoder().state_dict().items():
        assert torch.equal(first.state_dict()[name], value)
        assert torch.equal(second.state_dict()[name], value)
    assert first.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_load_is_offered_by_the_package(run):
    assert mae_vlm.load(run).encode([]).shape == (0, 32)


@torch.no_grad()
def test_features_are_the_mean_of_the_normed_patch_tokens_whatever_a_picture_is_given_as(run, tmp_path):
    images = torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8)
    theirs = encoder()
    expected_BD = theirs.vit.forward_features(theirs.normalise(images))[:, 2:].mean(dim=1)
    pil = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    for number, image in enumerate(pil):
        image.save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    embedder = load(run)
    for given in (
        images,
        list(images),
        images.float() / 255,
        pil,
        paths,
        [str(p) for p in paths],
        iter(pil),
        [images[0], pil[1], paths[2]],
    ):
        torch.testing.assert_close(embedder.encode(given), expected_BD, rtol=0, atol=1e-6)
    for one in (images[0], pil[0], paths[0], str(paths[0])):
        torch.testing.assert_close(embedder.encode(one), expected_BD[:1], rtol=0, atol=1e-6)
    torch.testing.assert_close(embedder.encode(images, batch_size=2), expected_BD, rtol=0, atol=1e-6)


def test_pooling_gives_patches_class_tokens_or_all(run):
    embedder, images = load(run), torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    tokens_BTD = embedder.encode(images, pool="none")
    assert tokens_BTD.shape == (2, 2 + 24, 32)
    torch.testing.assert_close(embedder.encode(images, pool="patches"), tokens_BTD[:, 2:].mean(1))
    torch.testing.assert_close(embedder.encode(images, pool="class"), tokens_BTD[:, :2].mean(1))
    with pytest.raises(ValueError, match="pool 'mean' given, allowed are patches, class and none"):
        embedder.encode(images, pool="mean")


def test_pictures_of_other_sizes_are_resized(run):
    assert load(run).encode([torch.zeros(3, 40, 31, dtype=torch.uint8), Image.new("L", (9, 99))]).shape == (2, 32)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "P", "1"])
def test_a_pil_picture_gives_the_features_of_its_file(run, tmp_path, mode):
    image = Image.effect_noise((24, 16), 60)
    image = Image.merge("RGBA", [image] * 4) if mode == "RGBA" else Image.merge("LA", [image] * 2) if mode == "LA" else image
    image = Image.new("I;16", (24, 16), 30000) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "one.png")
    embedder = load(run)
    torch.testing.assert_close(embedder.encode(Image.open(tmp_path / "one.png")), embedder.encode(tmp_path / "one.png"))


def test_a_picture_of_other_channels_is_refused(run):
    with pytest.raises(ValueError, match=r"shape \(4, 16, 24\) given, this encoder takes \[3, height, width\]"):
        load(run).encode(torch.zeros(4, 16, 24))


def test_nothing_there_is_told_with_what_is_looked_for(tmp_path):
    for place in (tmp_path, tmp_path / "none.ckpt"):
        with pytest.raises(ValueError, match=r"no checkpoint there; give a \.ckpt file or a run folder"):
            find_checkpoint(place)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil-was-here"),)


def saved(tmp_path: Path, what: object) -> Path:
    torch.save(what, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


@pytest.mark.parametrize("wrong", ["empty", "text", "cut short", "flipped header"])
def test_a_damaged_file_is_refused_by_name(run, wrong):
    place = run / "checkpoints" / "last.ckpt"
    data = place.read_bytes()
    place.write_bytes(
        {"empty": b"", "text": b"hello " * 99, "cut short": data[: len(data) // 2], "flipped header": b"\0" * 64 + data[64:]}[wrong]
    )
    with pytest.raises(ValueError, match=r"last\.ckpt is not a checkpoint of mae_vlm, or is damaged"):
        read(place)
    with pytest.warns(RuntimeWarning, match="damaged checkpoint"), pytest.raises(ValueError, match="all of its 1 checkpoints are damaged"):
        read(run)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = saved(tmp_path, content(encoder()) | {"callbacks": Evil()})
    with pytest.raises(ValueError, match="cannot be read as plain tensors"):
        load(place)
    assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize("foreign", [{"state_dict": {}}, {"model": torch.zeros(2)}, torch.zeros(3), [1, 2], {CHECKPOINT_KEY: 1}], ids=str)
def test_a_foreign_checkpoint_is_refused(tmp_path, foreign):
    with pytest.raises(ValueError, match=r"a\.ckpt is not a checkpoint of mae_vlm"):
        load(saved(tmp_path, foreign))


def test_a_newer_format_is_refused(tmp_path):
    newer = content(encoder())
    newer[CHECKPOINT_KEY]["format"] = CHECKPOINT_FORMAT + 1
    with pytest.raises(ValueError, match=rf"format {CHECKPOINT_FORMAT + 1}, this version reads up to {CHECKPOINT_FORMAT}; update"):
        load(saved(tmp_path, newer))


@pytest.mark.parametrize(
    "mark",
    [{}, {"format": 1}, {"format": "1", "config": "{}"}, {"format": 1, "config": "a: [b"}, {"format": 1, "config": "text"},
     {"format": 1, "config": "model: {}"}, {"format": 1, "config": 7}],
    ids=str,
)  # fmt: skip
def test_a_broken_mark_is_refused_by_name(tmp_path, mark):
    with pytest.raises(ValueError, match=r"a\.ckpt"):
        load(saved(tmp_path, content(encoder()) | {CHECKPOINT_KEY: mark}))


def test_a_checkpoint_without_weights_is_refused_by_name(tmp_path):
    empty = content(encoder())
    del empty["state_dict"]
    with pytest.raises(ValueError, match=r"a\.ckpt"):
        load(saved(tmp_path, empty))


def test_missing_and_unexpected_weights_are_named(tmp_path):
    lacking = content(encoder())
    lacking["state_dict"]["towers.image.vit.extra"] = lacking["state_dict"].pop("towers.image.vit.norm.weight")
    with pytest.raises(ValueError, match=r"missing \['vit.norm.weight'\], unexpected \['vit.extra'\]"):
        load(saved(tmp_path, lacking))


def test_weights_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match="don't fit their config"):
        load(saved(tmp_path, content(encoder(), INIT | {"width": 64})))


@pytest.mark.parametrize(
    "path", ["os.system", "mae_vlm.encoders.vit.sincos_2d", "mae_vlm.encoders.nowhere.Vit", "mae_vlm.encoders.vit.timm"]
)
def test_only_an_encoder_of_ours_is_built_from_a_file(tmp_path, path):
    with pytest.raises(ValueError, match=f"encoder {path} is not"):
        load(saved(tmp_path, content(encoder(), class_path=path)))
