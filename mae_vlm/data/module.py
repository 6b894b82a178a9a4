"""The one LightningDataModule: from a path to batches, with the same options for every kind of collection."""

from __future__ import annotations

from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from mae_vlm.data.checks import check_fit, check_known, check_options
from mae_vlm.data.framing import Fit, Zoom
from mae_vlm.data.loading import check_same, collection_state, part_loader, training_shuffle
from mae_vlm.data.parts import Ingredient, Parts, open_files, open_mixture, open_scenes
from mae_vlm.data.problems import Problems
from mae_vlm.data.reader import most_broken
from mae_vlm.data.sampler import InTurn, Order
from mae_vlm.data.sources.base import Columns, Source
from mae_vlm.data.summary import Summary, automatic_batch_size, automatic_size, summarise
from mae_vlm.data.transforms import Augment, Resize, Transform
from mae_vlm.types import Batch, sides

_SCENE_SIZE = (64, 64)
_MOST_AT_ONCE = 256  # pictures of a validation batch, for each process


class Data(LightningDataModule):
    """Pictures of any collection as batches of uint8 ``[B, channels, height, width]`` (see ``mae_vlm.types.Batch``).

    Training crops and flips at random, validation resizes and crops the centre. Where a head asks for boxes, masks or semantic maps
    (``wants``), pictures keep their shape on a canvas, and ``Batch.targets`` moves along. Which pictures make step s of epoch e, and how
    each is cropped, depends on ``seed``, s and e alone: not on processes, workers or accumulation. Run the Trainer with
    ``use_distributed_sampler=False``.

    Args:
        path: A folder, a list (.csv, .jsonl ...), tar or parquet files, also on s3:// and hf://, or hf://datasets/org/name[@revision];
            without it, generated scenes.
        format: auto tells it from the content; or scenes, folder (pictures), list, parquet, tar (WebDataset shards), hub, coco, voc,
            masks, captions, karpathy, qa, vqav2, nlvr2, vcr, visual_genome, generated. With a mixture auto.
        annotations: Annotation files to read, where a collection brings several; relative to the folder they lie in.
        val_path: Pictures to validate with; wins over the collection's own split, and that over val_fraction.
        val_fraction: Share kept for validation, by a hash of their names, so that it stays; 0 for none. Automatic: 0.05, at most 10,000.
        mixture: Several collections instead of one path, as [{path: A, weight: 3}, {path: B}]. Every batch holds each in proportion to
            its weight; an epoch is as many pictures as all of them hold, and none comes again before all of its collection came.
        image_size: Pixels of the pictures the model sees: one side, or height and width. Automatic: the collection's own up to 96,
            else 224 (the command line chooses 96 on a CPU).
        val_size: The same outside of training, where heads look at larger pictures through windows. Automatic: image_size.
        channels: 1 for grey, 3 for RGB, more for pictures of more bands. Automatic: 1 where all pictures are grey.
        bits: 8 or 16 for each channel of a pixel. Automatic: 16 where the pictures have more than 8.
        value_range: Lowest and highest value of a pixel in the files, where it is not the whole range of their type.
        batch_size: Pictures per optimizer step, over all processes and accumulated steps. Automatic: 256
            (the command line: 128 on a CPU, 1,024 on GPUs), fewer if the collection is small.
        num_workers: Loaders for each training process, 0 for itself. Automatic: 1 a core, at most 8 (command line: on a CPU half of them).
        order: How an epoch is shuffled: full, or blocks (shards or row groups in another order, and four at a time as one: for slow or
            remote disks). auto is full, but blocks for remote shards and tables too large for memory.
        crop_scale: Smallest and largest share of a picture's area that a training crop takes.
        framing: crop, or whole (pictures keep their shape on a canvas). auto is whole where a head asks for boxes, masks or semantic maps.
        zoom: Smallest and largest factor of the size at which a whole training picture just fits; larger ones are cut to the canvas.
        flip: Probability that a training picture is mirrored left to right.
        rand_augment: RandAugment of training pictures by timm's recipe, as rand-m9-mstd0.5-inc1: RGB of 8 bits, classes alone.
        erase: Share of training pictures in which a rectangle is erased (timm's random erasing, the MAE paper's 0.25), likewise.
        mean: Mean of each channel, of pixels in [0, 1], for the normalisation on the device. Automatic: ImageNet's.
        std: Standard deviation of each channel, likewise.
        image_column: Column of a table that holds the pictures. Automatic: found by its type.
        label_column: Column of a table or list that holds class numbers (in lists also names), or lists of them where pictures have
            several classes each, or fractions to learn. Automatic: found by its type or name.
        label_kind: auto tells it from the column's cells; class, classes (several of a picture) or number (whole ones, too).
        caption_column: Column that holds one or more captions, likewise.
        question_column: Column that holds one or more questions, likewise.
        answer_column: Column that holds their answers, likewise.
        split_column: Column that tells train, val and test, likewise.
        bad_annotations: drop leaves bad annotations (missing pictures, empty boxes, unknown classes) out and counts them; fail stops.
        max_broken: Share of the training or the validation pictures, and at least 10 of them, that may be unreadable before the run stops.
        allow_changes: Resume although the collection, or its order, has changed since the checkpoint.
        scenes: Generated scenes to train on.
        val_scenes: Generated scenes to validate with.
        seed: Decides order, crops, masks and the generated scenes. Automatic: seed_everything on the command line, else 0.
    """

    def __init__(
        self,
        path: str | None = None,
        format: str = "auto",
        annotations: str | list[str] | None = None,
        val_path: str | None = None,
        val_fraction: float | None = None,
        mixture: list[Ingredient] | None = None,
        image_size: int | tuple[int, int] | None = None,
        val_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        bits: int | None = None,
        value_range: tuple[float, float] | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        order: str = "auto",
        crop_scale: tuple[float, float] = (0.2, 1.0),
        framing: str = "auto",
        zoom: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        rand_augment: str | None = None,
        erase: float = 0.0,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        label_kind: str = "auto",
        caption_column: str | None = None,
        question_column: str | None = None,
        answer_column: str | None = None,
        split_column: str | None = None,
        bad_annotations: str = "drop",
        max_broken: float = 0.001,
        allow_changes: bool = False,
        scenes: int = 10_000,
        val_scenes: int = 1_000,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.path, self.format, self.annotations, self.val_path, self.val_fraction = path, format, annotations, val_path, val_fraction
        self.mixture = [one if isinstance(one, Ingredient) else Ingredient(**dict(one)) for one in mixture or []]
        self.image_size, self.channels, self.bits, self.value_range = image_size, channels, bits, value_range
        self.val_size, self.batch_size, self.num_workers, self.order = val_size, batch_size, num_workers, order
        self.crop_scale, self.framing, self.zoom, self.flip, self.mean, self.std = crop_scale, framing, zoom, flip, mean, std
        self.rand_augment, self.erase = rand_augment, erase
        self.second = False  # whether each picture comes with another crop: where the model holds views against each other
        self.wants: frozenset[str] = frozenset()  # of boxes, masks and semantic: what the model's heads ask for
        self.columns = Columns(image_column, label_column, caption_column, question_column, answer_column, split_column, label_kind)
        self.bad_annotations, self.max_broken, self.allow_changes = bad_annotations, max_broken, allow_changes
        self.scenes, self.val_scenes, self.seed = scenes, val_scenes, seed or 0
        check_options(self)
        self._parts: Parts | None = None
        self._summary: Summary | None = None
        self._order: Order | None = None
        self._resumed: tuple[int, int] | None = None
        self._state: dict[str, Any] | None = None

    # --- what there is ---------------------------------------------------------------------------------------------------

    def inspect(self) -> Summary:
        """Opens the collection (once) and tells what it holds; of pictures that are not plain grey or RGB of 8 bits, 64 are decoded.

        Raises:
            ValueError: the path does not exist or holds no picture, or an option does not fit it.
        """
        if self._summary is None:
            found, name = self._found(), self.path or " + ".join(one.name for one in self.mixture) or None
            self._summary = summarise(found.sources, name, found.format, found.split, (self.channels, self.bits, self.value_range))
        return self._summary

    def adopt(self, other: Data) -> None:
        """Take over what ``other``, made for the same collection, has opened already: a million files are looked through once."""
        same = all(getattr(self, name) == getattr(other, name) for name in ("image_size", "scenes", "val_scenes", "seed"))
        if same or other._found().format != "scenes":
            self._parts, self._summary = other._parts, other._summary

    @property
    def problems(self) -> Problems:
        """What was wrong with the annotations."""
        return self._found().problems

    def most_broken(self, part: str) -> int:
        """How many pictures of "train" or "val" may be unreadable."""
        return most_broken(len(self._opened()[part]), self.max_broken)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the batches: ``image_size``, or the automatic choice."""
        if self.image_size is not None:
            return sides(self.image_size)
        return automatic_size(self.inspect().height, self.inspect().width)

    def train_source(self) -> Source:
        """The training samples as they are."""
        return self._opened()["train"]

    def _opened(self) -> dict[str, Source]:
        """The sources by part: "train", and "val" and "test" where there are any, and "all" that predict goes over."""
        return self._found().sources

    def _found(self) -> Parts:
        if self._parts is None:
            problems = Problems(self.bad_annotations)
            if self.mixture:
                self._parts = open_mixture(self.mixture, self.columns, problems, self._scenes)
            elif self.path is None:
                self._parts = self._scenes()
            else:
                one = Ingredient(self.path, 1.0, self.format, self.annotations, self.val_path, self.val_fraction)
                self._parts = open_files(one, self.columns, problems)
        return self._parts

    def _scenes(self) -> Parts:
        size = _SCENE_SIZE if self.image_size is None else sides(self.image_size)
        return open_scenes(self.scenes, self.val_scenes, size, self.seed)

    # --- loaders ---------------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Opens the collection and checks that the options fit it; called by Lightning on every process."""
        summary = self.inspect()
        check_fit(self, self.channels or summary.channels, self.bits or summary.bits, self._opened()["train"])
        if stage != "predict":  # an answer needs no truth
            check_known(self, summary)
        if stage in (None, "fit"):
            self._order = self._train_order()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of this process: random crops, in another order every epoch."""
        if self._order is None:
            self.setup("fit")
        assert self._order is not None
        if self._resumed is not None:
            self._order.resume(*self._resumed)
        zoom, crop = Zoom(self.size, self.zoom, self.flip), Augment(self.size, self.crop_scale, flip=self.flip)
        return self._loader("train", zoom if self._whole else crop, self._order)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """The validation pictures, each once; an empty list where there are none."""
        return self._fixed_loader("val") if "val" in self._opened() else []

    def test_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """The collection's own test pictures, or the validation pictures where it brings none."""
        return self._fixed_loader("test") if "test" in self._opened() else self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Every picture of the collection at ``path`` once (train, val and test, one after the other), in its own order."""
        return self._fixed_loader("all")

    @property
    def batches(self) -> int:
        """Training batches that this process takes in an epoch, as the trainer limits them."""
        limit = 1.0 if self.trainer is None else self.trainer.limit_train_batches
        batches = len(self._order) if self._order is not None else 0
        return min(batches, limit) if isinstance(limit, int) else int(batches * limit)

    def resume(self, epoch: int, step: int) -> None:
        """Training goes on at optimizer step ``step`` of ``epoch``, in constant time; call it before or after the loader is made."""
        self._resumed = (epoch, step)
        if self._order is not None:
            self._order.resume(epoch, step)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: pictures seen, which no number of processes or workers changes, and of what collection in what order."""
        assert self.trainer is not None and self._order is not None
        return {"pictures_seen": self.trainer.global_step * self._order.batch_size, **self._collection_state()}

    def compare(self, state_dict: dict[str, Any]) -> str:
        """What has changed since a checkpoint with that state, in one line; empty where nothing has.

        Raises:
            ValueError: something has, and ``allow_changes`` is not set.
        """
        return check_same(state_dict, self._collection_state(), self.allow_changes)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Training goes on after the pictures that a checkpoint has seen; the other verbs have no place in an order.

        Raises:
            ValueError: the collection has changed, see ``compare``.
        """
        if self.trainer is not None and self.trainer.state.fn != "fit":
            return
        self.compare(state_dict)
        if self._order is None:
            self.setup("fit")
        assert self._order is not None
        steps = -(-self.batches // self._order.accumulation)  # of an epoch
        self.resume(*divmod(state_dict["pictures_seen"] // self._order.batch_size, steps))

    def _train_order(self) -> Order:
        world, rank, accumulation = self._processes()
        train = self._opened()["train"]
        batch_size = self.batch_size or automatic_batch_size(len(train), world * accumulation)
        shuffle = training_shuffle(train, self.order, self.seed, self._found().weights, batch_size)
        return Order(shuffle, batch_size, world, rank, accumulation)

    def _collection_state(self) -> dict[str, Any]:
        if self._state is None:
            self._state = collection_state(self._opened(), self.order, self.seed, self._found().weights)
        return self._state

    def _fixed_loader(self, part: str) -> DataLoader[Batch]:
        world, rank, accumulation = self._processes()
        batch_size = self.batch_size or automatic_batch_size(len(self._opened()["train"]), world * accumulation)
        share = max(1, min(_MOST_AT_ONCE, batch_size // (world * accumulation)))  # no gradients, but unmasked: a training batch may not fit
        share += share % 2  # pairs of neighbours, which some metrics compare, stay in one process
        order = Order(InTurn(len(self._opened()[part])), share * world, world, rank, drop_last=False)
        size = sides(self.val_size or self.size)
        return self._loader(part, Fit(size) if self._whole else Resize(size), order)

    def _loader(self, part: str, transform: Transform, order: Order) -> DataLoader[Batch]:
        return part_loader(self, part, self._opened()[part], transform, order)

    @property
    def _whole(self) -> bool:
        return self.framing == "whole" or (self.framing == "auto" and bool(self.wants))

    def _processes(self) -> tuple[int, int, int]:
        """(processes, this one's rank, accumulated steps) of the trainer; (1, 0, 1) without one."""
        trainer = self.trainer
        return (1, 0, 1) if trainer is None else (trainer.world_size, trainer.global_rank, trainer.accumulate_grad_batches)
