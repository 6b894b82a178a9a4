"""Weights, gradients and optimizer state in shards, one for each process (FSDP2: torch's ``fully_shard``).

Every block of :func:`mae_vlm.learners.blocks.blocks` is a unit that is whole only while it runs; all other weights are one more unit, whole
while a step of the learner runs. Outside of a step every weight is a shard; who needs whole ones there asks with :func:`whole`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from mae_vlm import pieces, storage
from mae_vlm.encoders.text.base import TextTower
from mae_vlm.learners.blocks import blocks

_EVALUATING = ("validation_step", "test_step", "predict_step")
_STEPS = ("training_step", *_EVALUATING)


def shard(learner: nn.Module, device: torch.device) -> None:
    """Cut the learner's weights into shards over all processes, in place; nothing where that is done already.

    Gradients are summed over processes in float32, also with bf16-true. With bf16-mixed weights travel as float32 and autocast does the
    rest, as in DDP: weights that arrive as bfloat16 would be rounded in norms too, which CPUs refuse.
    """
    if isinstance(learner, FSDPModule):
        return
    _begin_alike(learner, device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks(learner):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # the weights outside the blocks: freed after each step too, so that whoever looks at weights between steps finds shards alone
    fully_shard(learner, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    _fetch_in_turn(learner)
    for step in _STEPS:
        register_fsdp_forward_method(learner, step)
    if any(isinstance(module, TextTower) for module in learner.modules()):
        for step in _EVALUATING:
            setattr(learner, step, _whole_within(learner, getattr(learner, step)))


@torch.no_grad()
def _begin_alike(learner: nn.Module, device: torch.device) -> None:
    """The first process's weights everywhere, as DDP does it: what others drew before theirs may differ."""
    for tensor in (*learner.parameters(), *learner.buffers()):
        sent = tensor.detach().to(device, copy=True)
        dist.broadcast(sent, 0)
        tensor.copy_(sent)


def _fetch_in_turn(learner: nn.Module) -> None:
    """In the backward pass each block fetches the one before it in its stack, on every process.

    Left to itself torch goes by the forward passes since the last step, and those of a callback on one process alone would put the
    processes out of step for good.
    """
    assert isinstance(learner, FSDPModule)
    before: dict[str, FSDPModule] = {}
    for name, block in learner.named_modules():
        if isinstance(block, FSDPModule) and block is not learner:
            stack = name.rpartition(".")[0]
            block.set_modules_to_backward_prefetch([before.get(stack, learner)])  # the learner itself is whole by then: a way to say none
            before[stack] = block
    learner.set_modules_to_backward_prefetch([learner])


@contextmanager
def whole(learner: nn.Module) -> Iterator[None]:
    """Within it, weights are whole on every process and forward passes need no other one; all must enter it at the same time.

    For what a callback does outside of a step; nothing where weights are not sharded. Whole weights are for reading: changes are lost.
    """
    units = [module for module in learner.modules() if isinstance(module, FSDPModule)]
    if units:
        units[0]._get_fsdp_state()._lazy_init()  # before a block runs, which would take itself for the outermost unit
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()


def _whole_within(learner: nn.Module, step: Callable[..., Any]) -> Callable[..., Any]:
    """A step without gradients of a model that reads words: of these, unlike in training, each process has its own number of passes."""

    def run(*arguments: Any, **named: Any) -> Any:
        with whole(learner):
            return step(*arguments, **named)

    return run


def full(value: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; all processes must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


class Fsdp(ModelParallelStrategy):
    """FSDP2 over all processes of all machines: what a GPU holds of weights, gradients and moments is its share of them.

    Its checkpoints are those of every other strategy: one file, or a folder in pieces, and it goes on from either, on any number
    of processes. (Lightning's own numbers the optimizer's state in another order than the optimizer does.)

    Args:
        save_distributed_checkpoint: each process writes its own shards into a folder, instead of the first one all into a file: for
            models whose weights and moments don't fit into one process's memory, or take too long to write from one.
        process_group_backend: ``gloo`` on CPUs; None takes NCCL on GPUs.
    """

    def __init__(self, save_distributed_checkpoint: bool = False, process_group_backend: str | None = None) -> None:
        super().__init__(1, 1, save_distributed_checkpoint, process_group_backend)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.model is not None
        return dict(self._to_save(self.model.state_dict()))

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return dict(self._to_save(optimizer.state_dict()))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint whole or not at all. All processes call it; in pieces, OSError on all where one cannot write its part."""
        checkpoint = self._to_save(checkpoint)
        target = Path(self.broadcast(filepath))
        if not self._save_distributed_checkpoint:
            if self.is_global_zero:
                self.checkpoint_io.save_checkpoint(checkpoint, target, storage_options=storage_options)
            return
        partial = storage.partial(target)
        self._together(lambda: storage.make_folder(partial) if self.is_global_zero else None)
        try:
            files = self._together(lambda: pieces.write(checkpoint, partial))
            known = self._together(lambda: {file.name: storage.measure(file) for file in files[self.global_rank]})
            merged = {name: entry for part in known for name, entry in part.items()}
            step = int(checkpoint.get("global_step", 0))
            self._together(lambda: storage.seal(partial, target, merged, step) if self.is_global_zero else None)
        finally:
            if self.is_global_zero:
                storage.discard(partial)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(self.broadcast(checkpoint_path))
        if pieces.in_pieces(path):
            return pieces.read(path, self._own_shard)
        return self.checkpoint_io.load_checkpoint(path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        own = self.model.state_dict()
        given = {name: _as_sharded_as(own.get(name), value) for name, value in checkpoint["state_dict"].items()}
        self.model.load_state_dict(given, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, stored in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = _weights(optimizer)
            state = {
                number: {name: _as_sharded_as(weights[number], value) for name, value in values.items()}
                for number, values in stored["state"].items()
            }
            optimizer.load_state_dict({"state": state, "param_groups": stored["param_groups"]})

    def _to_save(self, content: Any) -> Any:
        """Sharded tensors stay as they are for a folder; for a file they are put together, on the first process alone."""
        if self._save_distributed_checkpoint:
            return content
        if isinstance(content, dict):
            return type(content)((key, self._to_save(value)) for key, value in content.items())
        if isinstance(content, list):
            return [self._to_save(value) for value in content]
        if isinstance(content, DTensor):
            gathered = full(content.detach())
            return gathered.cpu() if self.is_global_zero else gathered.new_empty(0)
        return content

    def _own_shard(self, place: pieces.Place, size: torch.Size, dtype: torch.dtype) -> Tensor | None:
        """Where a piece of a checkpoint belongs: into a shard like that of its weight, else into a whole tensor."""
        assert self.model is not None
        like: Any = None
        if place[0] == "state_dict":
            like = self.model.state_dict().get(str(place[1]))
        elif place[0] == "optimizer_states":
            if not self.optimizers:  # no training
                return None
            weights, number = _weights(self.optimizers[int(place[1])]), int(place[3])
            like = weights[number] if number < len(weights) else None
        if isinstance(like, DTensor) and like.shape == size:
            return torch.zeros_like(like.detach(), dtype=dtype)
        return torch.empty(size, dtype=dtype)

    def _together(self, work: Callable[[], Any]) -> list[Any]:
        """What ``work`` gives on every process. Where it fails on one all raise: OSError where the system refused, else RuntimeError."""
        result: Any = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as problem:  # whatever it is: the others wait below
            failure = problem
        told: list[Any] = [None] * self.world_size
        dist.all_gather_object(told, (result, failure and _plain(failure)))
        failures = [error for _, error in told if error]
        if failures:
            raise next((error for error in failures if isinstance(error, OSError)), failures[0]) from failure
        return [given for given, _ in told]


def _plain(problem: Exception) -> OSError | RuntimeError:
    """An error that can be sent: the system's, or one with the words of any other."""
    if isinstance(problem, OSError):
        return OSError(problem.errno or errno.EIO, problem.strerror or str(problem), problem.filename and str(problem.filename))
    return RuntimeError(f"{type(problem).__name__}: {problem}")


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The optimizer's weights in its own order, by which its state is numbered."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _as_sharded_as(like: Any, value: Any) -> Any:
    """The own shard of ``value``, where ``like`` is a shard of the same shape. No other process is asked."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.detach(), like.device_mesh, like.placements, src_data_rank=None)
