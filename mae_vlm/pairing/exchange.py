"""Chosen rows of all processes, with their gradients: what nobody has chosen is not sent.

Letters: B rows of one process, R rows that it wants, S rows that it sends, P processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mae_vlm.pairing.gather import gather, processes


@dataclass(frozen=True)
class Routes:
    """What this process sends to each and takes from each, in the order of the processes.

    Attributes:
        wanted_R: the rows that it wants, numbered over all processes.
        send_S: rows of its own that others, or itself, want.
        sent, taken: how many to each process and from each.
        place_R: where each wanted row stands among those taken.
    """

    wanted_R: Tensor
    send_S: Tensor
    sent: list[int]
    taken: list[int]
    place_R: Tensor

    def fetch(self, own: Tensor) -> Tensor:
        """The wanted rows ``[R, ...]``, of which ``own`` are this process's; all must ask.

        Gradients go back as from :func:`mae_vlm.pairing.gather.gather`.
        """
        if processes() == 1:
            return own[self.wanted_R]
        fetched: Tensor = _Exchange.apply(own, self)
        return fetched


def routes(rows: int, *wanted: Tensor) -> list[Routes]:
    """The routes of wanted rows, numbered over all processes, each of which has as many ``rows`` and wants as many.

    All must ask. The host must know how much goes where: it waits once for the device.
    """
    if processes() == 1:
        return [Routes(wanted_R, wanted_R, [], [], wanted_R) for wanted_R in wanted]
    everybodys_PWR = gather(torch.stack(wanted)[None]).cpu()
    return [_routed(wanted_R, everybodys_PWR[:, number], rows) for number, wanted_R in enumerate(wanted)]


def _routed(wanted_R: Tensor, everybodys_PR: Tensor, rows: int) -> Routes:
    own, device = dist.get_rank(), wanted_R.device
    owner_PR = everybodys_PR // rows
    mine_PR = owner_PR == own
    send_S = everybodys_PR[mine_PR] - own * rows
    taken = torch.bincount(owner_PR[own], minlength=len(owner_PR))
    place_R = owner_PR[own].argsort(stable=True).argsort()
    return Routes(wanted_R, send_S.to(device), mine_PR.sum(1).tolist(), taken.tolist(), place_R.to(device))


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, way: Routes) -> Tensor:
        ctx.way, ctx.rows = way, len(own)
        taken = own.new_empty(len(way.wanted_R), *own.shape[1:])
        dist.all_to_all_single(taken, own[way.send_S], way.taken, way.sent)
        return taken[way.place_R]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        way, gradient = ctx.way, gradients[0]
        taken = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        taken[way.place_R] = gradient
        back = gradient.new_empty(len(way.send_S), *gradient.shape[1:])
        dist.all_to_all_single(back, taken, way.sent, way.taken)
        own = gradient.new_zeros(ctx.rows, *gradient.shape[1:])
        return own.index_put_((way.send_S,), back, accumulate=True), None
