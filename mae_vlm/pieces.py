"""A checkpoint in pieces: a folder in which every process has written its part of the tensors, read back without running code."""

from __future__ import annotations

import errno
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from mae_vlm import storage

REST = "meta.pt"  # what is not in pieces, and where in it the pieces belong
_INDEX = ".metadata"
_PLACES = "pieces"
_TORCH_COULD_NOT_WRITE = ("enforce fail at inline_container", "PytorchStreamWriter", "unexpected pos")

Place = list[str | int]  # the keys that lead to a tensor, from the outermost dictionary inwards
Target = Callable[[Place, torch.Size, torch.dtype], Tensor | None]

# All that an honest index of torch.distributed.checkpoint is made of; it is a pickle, which could name anything.
_ALLOWED = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "StorageMeta"),
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size", *(str(value).removeprefix("torch.") for value in vars(torch).values() if isinstance(value, torch.dtype))),
    "pathlib": ("Path", "PosixPath", "WindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "WindowsPath"),  # Python 3.13
    "collections": ("OrderedDict",),
}


def in_pieces(place: Path) -> bool:
    """Whether a path is a checkpoint in pieces, whole or damaged, and not a folder that holds checkpoints."""
    return place.is_dir() and ((place / REST).is_file() or place.resolve().suffix == ".ckpt")


def write(content: dict[str, Any], folder: Path) -> list[Path]:
    """Write a checkpoint, every process the shards that it holds; all of them must call it. Whole tensors are the first one's.

    Returns:
        the files that this process has written, on the disk.

    Raises:
        OSError: where one of them could not write; on all processes, but on the first alone where that was what is not in pieces.
        RuntimeError: on all of them, where one has failed otherwise.
    """
    taken: dict[str, Tensor] = {}
    places: dict[str, Place] = {}
    rest = _without_shards(content, [], taken, places)
    try:
        save(taken, storage_writer=_Writer(folder))
    except CheckpointException as problem:
        raise _as_the_system_said(problem, folder) from problem
    rank = dist.get_rank()
    files = sorted(folder.glob(f"__{rank}_*"))
    if rank == 0:
        storage.write_whole(folder / REST, lambda file: torch.save(rest | {_PLACES: places}, file))
        files += [folder / REST, folder / _INDEX]
    return files


def read(folder: Path, target: Target | None = None) -> dict[str, Any]:
    """The checkpoint as one dictionary, as if it had been one file. Runs no code, needs no other process.

    Args:
        folder: as written by :func:`write`, by any number of processes.
        target: gives, by place, size and type, the tensor that one is read into (a sharded one takes its own shard alone), or None to leave
            it out; without it everything is read whole.

    Raises:
        ValueError: it is damaged, or its index names code.
    """
    target = target or (lambda place, size, dtype: torch.empty(size, dtype=dtype))
    try:
        content: dict[str, Any] = torch.load(folder / REST, map_location="cpu", weights_only=True)
        places = content.pop(_PLACES)
        reader = _Reader(folder)
        index = reader.read_metadata().state_dict_metadata
        found = {}
        for key, place in places.items():
            stored = index[key]
            if not isinstance(stored, TensorStorageMetadata):
                raise ValueError(f"{key} is not a tensor")
            tensor = target(place, stored.size, stored.properties.dtype)
            if tensor is not None:
                found[key] = tensor
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is read without the other processes
            load(found, storage_reader=reader, no_dist=True)
    except Exception as problem:
        words = " ".join(str(problem).split())[:200]
        raise ValueError(f"{folder} cannot be read as a checkpoint in pieces ({type(problem).__name__}: {words})") from problem
    for key, tensor in found.items():
        _put(content, places[key], tensor)
    return content


class _Writer(FileSystemWriter):
    """Says what the system said: torch makes a RuntimeError of a refused write, and its cause does not travel to the other processes."""

    def write_data(self, *arguments: Any, **named: Any) -> Any:
        try:
            return super().write_data(*arguments, **named)
        except Exception as problem:
            refused = _refusal(problem, Path(self.path) / f"__{dist.get_rank()}_0.distcp")
            if refused is None:
                raise
            raise refused from problem


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"the index names {module}.{name}, which no checkpoint needs")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    """Reads an index made of tensors' sizes and places, and nothing else."""

    def read_metadata(self, *arguments: Any, **named: Any) -> Metadata:
        with (Path(self.path) / _INDEX).open("rb") as file:
            index = _Unpickler(file).load()
        assert isinstance(index, Metadata)
        for stored in (index.storage_data or {}).values():
            if Path(stored.relative_path).name != stored.relative_path:
                raise ValueError(f"the index names {stored.relative_path}, outside of the folder")
        index.storage_meta = index.storage_meta or StorageMeta()
        index.storage_meta.load_id = self.load_id
        return index


def _without_shards(content: Any, place: Place, taken: dict[str, Tensor], places: dict[str, Place]) -> Any:
    """The same dictionaries and lists less their sharded tensors, which go to ``taken``, and where they were to ``places``."""
    if isinstance(content, dict):
        kept = {key: _without_shards(value, [*place, key], taken, places) for key, value in content.items()}
        return {key: value for key, value in kept.items() if not isinstance(content[key], DTensor)}
    if isinstance(content, list | tuple):
        parts = [_without_shards(value, [*place, number], taken, places) for number, value in enumerate(content)]
        return parts if isinstance(content, list) else tuple(parts)
    if isinstance(content, DTensor):
        name = "/".join(map(str, place))
        taken[name], places[name] = content.detach(), place
        return None
    return content


def _put(content: Any, place: Place, tensor: Tensor) -> None:
    for key in place[:-1]:
        content = content[key]
    content[place[-1]] = tensor


def _as_the_system_said(problem: CheckpointException, folder: Path) -> Exception:
    """Of what the processes report, the first refusal of the system; else the first one's words, in an error that is an ``Exception``."""
    reasons = [reason[0] for _, reason in sorted(problem.failures.items())]
    for reason in reasons:
        if not isinstance(reason, Exception):  # somebody ends the program
            raise problem
    refused = next(filter(None, (_refusal(reason, folder) for reason in reasons)), None)
    return refused or RuntimeError(f"{folder} cannot be written ({type(reasons[0]).__name__}: {reasons[0]})")


def _refusal(problem: BaseException, file: Path) -> OSError | None:
    """What the system said, in an error or behind it; where only torch is left to say that it could not write, no room."""
    reason: BaseException | None = problem
    while reason is not None:
        if isinstance(reason, OSError):
            return OSError(reason.errno or errno.EIO, reason.strerror or str(reason), str(reason.filename or file))
        reason = reason.__cause__ or reason.__context__
    if any(words in str(problem) for words in _TORCH_COULD_NOT_WRITE):
        return OSError(errno.ENOSPC, f"torch could not write it, as on a full disk ({' '.join(str(problem).split())[:100]})", str(file))
    return None
