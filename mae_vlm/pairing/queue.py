"""What was embedded in the last steps: more to be compared with than a batch holds.

Letters: B pairs of one process, A rows of all of them, Q places, E numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mae_vlm.encoders.joint import Embedded


class Queue(nn.Module):
    """Embedded pairs of the last steps and who they are, the same on every process; empty at first, kept in checkpoints.

    Args:
        places: pairs that it holds at most (Q).
        width: numbers of an embedding (E).
    """

    image_QE: Tensor
    text_QE: Tensor
    who_Q2: Tensor
    there_Q: Tensor
    place: Tensor

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        for name in ("image_QE", "text_QE"):
            self.register_buffer(name, torch.zeros(places, width))
        self.register_buffer("who_Q2", torch.zeros(places, 2, dtype=torch.int64))
        self.register_buffer("there_Q", torch.zeros(places, dtype=torch.bool))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def behind(self, found_A: Embedded) -> Embedded:
        """Pairs of this step, and below them those that are kept."""
        kept = (self.image_QE, self.text_QE)
        return Embedded(*(torch.cat([own, more.to(own.dtype)]) for own, more in zip(found_A, kept, strict=True)))

    def left_out(self, who_B2: Tensor) -> Tensor:
        """Bool ``[B, Q]``: what is no negative of these pairs, for it shows the same picture, says the same words, or is not there yet."""
        return (who_B2[:, None] == self.who_Q2[None]).any(-1) | ~self.there_Q

    def push(self, found_A: Embedded, who_A2: Tensor, has_A: Tensor) -> None:
        """Let the newest pairs that have a caption take the oldest ones' places."""
        kept = (self.image_QE, self.text_QE, self.who_Q2, self.there_Q)
        counts_A = has_A & torch.cat(found_A, dim=1).isfinite().all(1)
        push(kept, self.place, (*found_A, who_A2, torch.ones_like(has_A)), counts_A)


def alike(module: nn.Module) -> list[str]:
    """The names of all buffers of the queues within: every process fills its own alike, and nobody needs to send them at each step."""
    return [f"{name}.{own}" for name, part in module.named_modules() if isinstance(part, Queue) for own, _ in part.named_buffers()]


@torch.no_grad()
def push(kept: Sequence[Tensor], place: Tensor, fresh: Sequence[Tensor], counts_A: Tensor) -> None:
    """Let ``fresh`` rows take the oldest places of what is ``kept``, in place, as far as they count; ``place`` is the next.

    Other rows, as those of a step that is skipped for its bad numbers, take no place. Nothing waits for the device.
    """
    places = len(kept[0])
    order_A = (~counts_A).to(torch.uint8).argsort(stable=True)[:places]  # those that count first, in their order
    index_A = (place + torch.arange(len(order_A), device=place.device)) % places
    counted_A = counts_A[order_A]
    for old, new in zip(kept, fresh, strict=True):
        rows = new[order_A].to(old.dtype)
        old[index_A] = torch.where(counted_A.view(-1, *[1] * (old.ndim - 1)), rows, old[index_A])
    place.copy_((place + counted_A.sum()) % places)
