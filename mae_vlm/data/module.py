"""The one LightningDataModule: from a path to batches, with the same options for every kind of collection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from mae_vlm.data.cache import PixelCache
from mae_vlm.data.collection import FORMATS
from mae_vlm.data.parts import Parts, open_files, open_scenes
from mae_vlm.data.reader import Reader, one_thread
from mae_vlm.data.sampler import Draw, Order
from mae_vlm.data.sources.base import Source
from mae_vlm.data.summary import Summary, automatic_batch_size, automatic_size, automatic_workers, typical_size
from mae_vlm.data.transforms import Augment, Resize
from mae_vlm.types import Batch, sides

_SCENE_SIZE = (64, 64)
_MOST_AT_ONCE = 256  # pictures of a validation batch, for each process
_READ_AHEAD = 2**30  # bytes of batches waiting in shared memory, at most


class Data(LightningDataModule):
    """Pictures of any collection as batches of uint8 ``[B, channels, height, width]`` (see ``mae_vlm.types.Batch``).

    Training crops and flips at random, validation resizes and crops the centre. Which pictures make step s of epoch e, and how each is
    cropped, depends on ``seed``, s and e alone: not on processes, workers or accumulation. Run the Trainer with
    ``use_distributed_sampler=False``.

    Args:
        path: A folder or file of pictures, or hf://datasets/org/name[@revision]; without it, generated scenes.
        format: auto tells it from the content; or scenes, folder (pictures), parquet, tar (WebDataset shards), hub.
        val_path: Pictures to validate with; wins over the collection's own split, and that over val_fraction.
        val_fraction: Share of the pictures kept for validation, chosen by a hash of their names so that it stays as pictures are
            added; 0 for none. Automatic: 0.05, at most 10,000 pictures.
        image_size: Pixels of the pictures the model sees: one side, or height and width. Automatic: the collection's own up to 96,
            else 224 (the command line chooses 96 on a CPU).
        channels: 1 for grey, 3 for RGB. Automatic: 1 where all pictures are grey.
        batch_size: Pictures per optimizer step, over all processes and accumulated steps. Automatic: 256
            (the command line: 128 on a CPU, 1,024 on GPUs), fewer if the collection is small.
        num_workers: Loader processes for each training process; 0 loads in the training process. Automatic: one per core,
            at most 8 (the command line: half of the cores on a CPU, which also train).
        crop_scale: Smallest and largest share of a picture's area that a training crop takes.
        flip: Probability that a training picture is mirrored left to right.
        mean: Mean of each channel, of pixels in [0, 1], for the normalisation on the device. Automatic: ImageNet's.
        std: Standard deviation of each channel, likewise.
        image_column: Column of a table that holds the pictures. Automatic: found by its type.
        label_column: Column of a table that holds the class numbers. Automatic: found by its type or name.
        scenes: Generated scenes to train on.
        val_scenes: Generated scenes to validate with.
        seed: Decides order, crops, masks and the generated scenes. Automatic: seed_everything on the command line, else 0.
    """

    def __init__(
        self,
        path: str | None = None,
        format: str = "auto",
        val_path: str | None = None,
        val_fraction: float | None = None,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        flip: float = 0.5,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        scenes: int = 10_000,
        val_scenes: int = 1_000,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.path, self.format, self.val_path, self.val_fraction = path, format, val_path, val_fraction
        self.image_size, self.channels, self.batch_size, self.num_workers = image_size, channels, batch_size, num_workers
        self.crop_scale, self.flip, self.mean, self.std = crop_scale, flip, mean, std
        self.image_column, self.label_column = image_column, label_column
        self.scenes, self.val_scenes, self.seed = scenes, val_scenes, seed or 0
        self._check_options()
        self._parts: Parts | None = None
        self._summary: Summary | None = None
        self._order: Order | None = None
        self._resumed: tuple[int, int] | None = None

    # --- what there is ---------------------------------------------------------------------------------------------------

    def inspect(self) -> Summary:
        """Opens the collection (once) and tells what it holds; no picture is decoded.

        Raises:
            ValueError: the path does not exist or holds no picture, or an option does not fit it.
        """
        if self._summary is None:
            sources = self._opened()
            height, width, channels = typical_size(sources["train"])
            self._summary = Summary(
                path=self.path,
                format=self._found().format,
                train=len(sources["train"]),
                val=len(sources["val"]) if "val" in sources else 0,
                test=len(sources["test"]) if "test" in sources else 0,
                height=height,
                width=width,
                channels=channels,
                classes=sources["train"].classes,
                split=self._found().split,
            )
        return self._summary

    def adopt(self, other: Data) -> None:
        """Take over what ``other``, made for the same collection, has opened already: a million files are looked through once."""
        if other._found().format != "scenes":
            self._parts, self._summary = other._parts, other._summary

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the batches: ``image_size``, or the automatic choice."""
        if self.image_size is None:
            summary = self.inspect()
            return automatic_size(summary.height, summary.width)
        return sides(self.image_size)

    def _opened(self) -> dict[str, Source]:
        """The sources by part: "train", and "val" and "test" where there are any, and "all" that predict goes over."""
        return self._found().sources

    def _found(self) -> Parts:
        if self._parts is None:
            if self.path is None or self.format == "scenes":
                size = _SCENE_SIZE if self.image_size is None else sides(self.image_size)
                self._parts = open_scenes(self.scenes, self.val_scenes, size, self.seed)
            else:
                self._parts = open_files(self.path, self.format, self.image_column, self.label_column, self.val_path, self.val_fraction)
        return self._parts

    # --- loaders ---------------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Opens the collection and checks that the options fit it; called by Lightning on every process."""
        self._opened()
        self._check_fit()
        if stage in (None, "fit"):
            self._order = self._train_order()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of this process: random crops, in another order every epoch."""
        if self._order is None:
            self.setup("fit")
        assert self._order is not None
        if self._resumed is not None:
            self._order.resume(*self._resumed)
        return self._loader(self._opened()["train"], Augment(self.size, self.crop_scale, flip=self.flip), self._order)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """The validation pictures, each once; an empty list where there are none."""
        sources = self._opened()
        return self._fixed_loader(sources["val"]) if "val" in sources else []

    def test_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """The collection's own test pictures, or the validation pictures where it brings none."""
        sources = self._opened()
        return self._fixed_loader(sources["test"]) if "test" in sources else self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Every picture of the collection at ``path`` once (train, val and test, one after the other), in its own order."""
        return self._fixed_loader(self._opened()["all"])

    def resume(self, epoch: int, step: int) -> None:
        """Training goes on at optimizer step ``step`` of ``epoch``, in constant time; call it before or after the loader is made."""
        self._resumed = (epoch, step)
        if self._order is not None:
            self._order.resume(epoch, step)

    def state_dict(self) -> dict[str, int]:
        """How far training has come, for the checkpoint: pictures seen, which no number of processes or workers changes."""
        assert self.trainer is not None and self._order is not None
        return {"pictures_seen": self.trainer.global_step * self._order.batch_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Training goes on after the pictures that a checkpoint has seen; the other verbs have no place in an order."""
        if self.trainer is not None and self.trainer.state.fn != "fit":
            return
        if self._order is None:
            self.setup("fit")
        assert self._order is not None
        self.resume(0, state_dict["pictures_seen"] // self._order.batch_size)

    def _train_order(self) -> Order:
        world, rank, accumulation = self._processes()
        length = len(self._opened()["train"])
        batch_size = self.batch_size or automatic_batch_size(length, world * accumulation)
        return Order(length, batch_size, world, rank, accumulation, self.seed)

    def _fixed_loader(self, source: Source) -> DataLoader[Batch]:
        world, rank, accumulation = self._processes()
        batch_size = self.batch_size or automatic_batch_size(len(self._opened()["train"]), world * accumulation)
        share = max(1, min(_MOST_AT_ONCE, batch_size // (world * accumulation)))  # no gradients, but unmasked: a training batch may not fit
        order = Order(len(source), share * world, world, rank, seed=self.seed, shuffle=False, drop_last=False)
        return self._loader(source, Resize(self.size), order)

    def _loader(self, source: Source, transform: Callable[[Tensor, int], Tensor], order: Order) -> DataLoader[Batch]:
        world = self._processes()[0]
        workers = automatic_workers(world) if self.num_workers is None else self.num_workers
        summary = self.inspect()
        shape = (self.channels or summary.channels, summary.height, summary.width)
        cache = PixelCache(len(source), shape) if PixelCache.fits(len(source), shape) else None
        reader = Reader(source, transform, self.seed, shape[0], cache)
        # batch_size None: an item of the sampler is a whole batch, and Lightning finds set_epoch on loader.sampler
        return DataLoader(
            reader,
            batch_size=None,
            sampler=order,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=one_thread,
            prefetch_factor=self._batches_ahead(workers, order) if workers else None,
        )

    def _batches_ahead(self, workers: int, order: Order) -> int:
        """Batches that each worker prepares ahead: up to 4, fewer where they are large."""
        height, width = self.size
        size = order.batch_size // (order.world * order.accumulation) * height * width * (self.channels or self.inspect().channels)
        return max(1, min(4, _READ_AHEAD // (workers * size)))

    def _processes(self) -> tuple[int, int, int]:
        """(processes, this one's rank, accumulated steps) of the trainer; (1, 0, 1) without one."""
        if self.trainer is None:
            return 1, 0, 1
        return self.trainer.world_size, self.trainer.global_rank, self.trainer.accumulate_grad_batches

    # --- checks ----------------------------------------------------------------------------------------------------------

    def _check_options(self) -> None:
        """Everything that is wrong whatever the collection holds."""
        if self.format not in FORMATS:
            raise ValueError(f"data.format {self.format} is unknown; use one of {', '.join(FORMATS)}")
        if self.format not in ("auto", "scenes") and self.path is None:
            raise ValueError(f"data.format {self.format} needs pictures; set data.path")
        if self.format == "scenes" and self.path is not None:
            raise ValueError(f"data.format scenes would ignore data.path {self.path}; set data.format to auto")
        if self.image_size is not None and min(sides(self.image_size)) < 1:
            raise ValueError(f"data.image_size {self.image_size} must be positive: one side, or height and width in pixels")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"data.channels {self.channels} is not possible yet; use 1 (grey) or 3 (RGB)")
        if self.val_fraction is not None and not 0 <= self.val_fraction < 1:
            raise ValueError(f"data.val_fraction {self.val_fraction} must be at least 0 and less than 1, as 0.05")
        for option in ("batch_size", "scenes"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise ValueError(f"data.{option} {value} must be at least 1")
        for option in ("num_workers", "val_scenes"):
            value = getattr(self, option)
            if value is not None and value < 0:
                raise ValueError(f"data.{option} {value} must be at least 0")
        Augment((8, 8), self.crop_scale, flip=self.flip)  # checks both

    def _check_fit(self) -> None:
        """What only shows once the collection is open."""
        channels = self.channels or self.inspect().channels
        for option, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != channels:
                raise ValueError(f"data.{option} {values} has {len(values)} numbers for {channels} channels; give one for each")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"data.std {self.std} must be positive, of pixels in [0, 1]")


def _as_it_is(batch: Any) -> Any:
    return batch


__all__ = ["Data", "Draw", "Order", "Summary"]
