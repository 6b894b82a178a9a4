"""One batch seen through the towers.

Letters: B pictures, C channels, H, W pixels, N patches, P numbers in a patch, T tokens of a text, R chosen rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mae_vlm.encoders.fusion.base import Fused
from mae_vlm.encoders.joint import Embedded
from mae_vlm.encoders.passes import Held, held, tapped
from mae_vlm.encoders.text.base import EncodedText, TextRows
from mae_vlm.encoders.towers import Towers
from mae_vlm.tokens.chance import uniform
from mae_vlm.tokens.colours import Distortion, distort
from mae_vlm.tokens.masking import Mask
from mae_vlm.tokens.words import Words
from mae_vlm.types import Batch, Encoded, Masking

T = TypeVar("T")
_SECOND = 0x5EC0_4D00  # the second view's chance is drawn from keys that differ in these bits
_CAPTION = 11  # the stream of chance that chooses one of a picture's captions


def chosen_captions(batch: Batch, training: bool) -> list[str | None]:
    """One caption of each picture: drawn by its key in training, else its first; None where it has none or only fills up a batch."""
    captions = batch.captions or [()] * len(batch)
    if not training:
        return [told[0] if told and real else None for told, real in zip(captions, batch.real_B.tolist(), strict=True)]
    drawn = uniform(batch.keys_B.cpu(), 1, _CAPTION)[:, 0].tolist()
    return [told[int(number * len(told))] if told else None for told, number in zip(captions, drawn, strict=True)]


class Features:
    """One batch seen through the towers, lazily: each pass runs once, on first use; what nobody asks for never runs.

    Args:
        towers: the encoders.
        batch: pictures as uint8, with the keys that masks are drawn from.
        mask: how patches are hidden; None when no objective looks at a masked view.
        chunks: gradient caching: each tower sees the batch in so many parts, whose activations are computed again one by one in the
            backward pass. The loss and its gradients are those of the whole batch, with the memory of a part (Gao et al. 2021,
            arXiv 2101.06983, in one backward pass).
        teacher: the moving average of the towers, where an objective learns from it.
    """

    def __init__(self, towers: Towers, batch: Batch, mask: Mask | None = None, chunks: int = 1, teacher: Towers | None = None) -> None:
        self._towers = towers
        self.batch = batch
        self._mask = mask
        self._chunks = chunks
        self._teacher = teacher
        self._maps: dict[Any, list[Tensor]] = {}
        self._held: dict[int, Held] = {}
        self._made: dict[str, Any] = {}

    @cached_property
    def images_BCHW(self) -> Tensor:
        """Normalised pictures."""
        return self._towers.image.normalise(self.batch.images_BCHW)

    @cached_property
    def patches_BNP(self) -> Tensor:
        """Normalised pictures as patches."""
        return self._towers.image.patchify(self.images_BCHW)

    @cached_property
    def masking(self) -> Masking:
        """Visible and hidden patches of the masked view."""
        assert self._mask is not None, "an objective asked for the masked view, but the learner has no masking"
        return self._mask(self.batch.keys_B, self._towers.image.space)

    @cached_property
    def masked(self) -> Encoded:
        """The encoder's view of the visible patches."""
        image = self._towers.image
        (tokens_BTD,) = self.in_chunks(
            lambda patches_BNP, keep_BK: (image.visible(patches_BNP, keep_BK).tokens_BTD,), self.patches_BNP, self.masking.keep_BK
        )
        return Encoded(tokens_BTD, image.prefix)

    def maps(self, taps: tuple[int, ...], windows: int = 1, whole: tuple[int, ...] = ()) -> list[Tensor]:
        """Patch tokens after the blocks ``taps`` as maps ``[B, D, rows, columns]``, see :func:`mae_vlm.encoders.passes.tapped`."""
        key = (taps, windows, whole)
        if key not in self._maps:
            self._maps[key] = tapped(self._towers.image, self.images_BCHW, *key)
        return self._maps[key]

    def window(self, top: int, left: int) -> Features:
        """Of pictures larger than the encoder's, what it sees of that part of its size whose corner is at these pixels."""
        space = self._towers.image.space
        part = (..., slice(top, top + space.height), slice(left, left + space.width))
        return Features(self._towers, replace(self.batch, images_BCHW=self.batch.images_BCHW[part]))

    def held(self, last: int) -> Held:
        """All tokens before the ``last`` blocks, and these blocks, see :func:`mae_vlm.encoders.passes.held`."""
        if last not in self._held:
            image = self._towers.image
            (tokens_BTD,) = self.in_chunks(lambda images_BCHW: (held(image, images_BCHW, last).tokens_BTD,), self.images_BCHW)
            blocks = list(image.vit.blocks)
            self._held[last] = Held(tokens_BTD, image.prefix, blocks[-last:], image.vit.norm)
        return self._held[last]

    @cached_property
    def full(self) -> Encoded:
        """The encoder's view of all patches."""
        image = self._towers.image

        def see(images_BCHW: Tensor) -> tuple[Tensor, ...]:
            encoded = image.full(images_BCHW)
            assert encoded.unnormed_BND is not None
            return encoded.tokens_BTD, encoded.unnormed_BND

        tokens_BTD, unnormed_BND = self.in_chunks(see, self.images_BCHW)
        return Encoded(tokens_BTD, image.prefix, unnormed_BND)

    # -- other views

    def second(self, how: Distortion) -> Features:
        """The batch's second crops, their colours distorted, through the same towers; masked otherwise than the first."""

        def see() -> Features:
            assert self.batch.second_BCHW is not None, "an objective asked for a second view, but the data delivers none"
            image, keys_B = self._towers.image, self.batch.keys_B ^ _SECOND
            dtype = torch.promote_types(image.mean.dtype, torch.float32)
            scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(self.batch.second_BCHW.dtype, 1.0)
            images_BCHW = distort(self.batch.second_BCHW.to(dtype) / scale, keys_B, how)
            batch = replace(self.batch, images_BCHW=images_BCHW, keys_B=keys_B, second_BCHW=None)
            return Features(self._towers, batch, self._mask, self._chunks)

        return self.once(f"second {how}", see)

    def teacher(self) -> Features:
        """The same batch through the moving average of the towers; ask for its passes without gradients."""
        assert self._teacher is not None, "an objective asked for a teacher, but the learner keeps none; set model.teacher"
        teacher = self._teacher

        def see() -> Features:
            seen = Features(teacher, self.batch, self._mask)
            if self._towers.text is not None:
                seen.__dict__ |= {"texts": self.texts, "words": self.words}  # what the towers read: the teacher draws none of its own
            if self._towers.regions is not None:
                seen.__dict__["boxed"] = self.boxed
            return seen

        return self.once("teacher", see)

    # -- words

    @cached_property
    def texts(self) -> list[str | None]:
        """One caption of each picture: see :func:`chosen_captions`."""
        return chosen_captions(self.batch, self._towers.training)

    @cached_property
    def words(self) -> Words:
        """These captions as numbers."""
        return self._towers.told_text().words(self.texts)

    def rows(self, texts: Sequence[Sequence[str]]) -> TextRows:
        """Any number of texts of each picture as numbers, such as all its captions or questions."""
        return self._towers.told_text().rows(texts, self._chunks)  # enough for all parts: as many passes on every process

    @cached_property
    def text(self) -> EncodedText:
        """The text tower's view of them."""
        return self.read(self.words)

    def read(self, words: Words, causal: bool = False) -> EncodedText:
        """Any words through the text tower, such as some of which a part has masked."""
        tower = self._towers.told_text()

        def see(*parts: Tensor) -> tuple[Tensor, ...]:
            return (tower(Words(*parts), causal).tokens_BTD,)

        (tokens_BTD,) = self.in_chunks(see, words.ids_BT, words.real_BT, words.word_BT, words.has_B)
        return EncodedText(tokens_BTD, words)

    @property
    def word_table(self) -> Tensor:
        """The embedding of every word ``[vocabulary, D]``, to which an output layer may be tied."""
        return self._towers.told_text().word_table.weight

    @cached_property
    def embedded(self) -> Embedded | None:
        """Pictures and captions in the space they share; None where no part has built one."""
        return None if self._towers.joint is None else Embedded(self.placed_images, self.placed(self.text))

    @cached_property
    def placed_images(self) -> Tensor:
        """The pictures in that space ``[B, E]``, which a part has built."""
        joint = self._towers.joint
        assert joint is not None, "no part has built the shared space: Towers.join"
        return joint.of_image(self.full if joint.view == "full" else self.masked)

    def placed(self, text: EncodedText) -> Tensor:
        """Any encoded texts in the space that pictures and texts share ``[B, E]``."""
        assert self._towers.joint is not None, "no part has built the shared space: Towers.join"
        return self._towers.joint.of_text(text)

    def apart(self) -> Features:
        """The same towers with none of this batch's passes kept: to read and fuse what was seen at other times."""
        return Features(self._towers, self.batch[:0])

    @cached_property
    def seen(self) -> Encoded | Held:
        """What the fusion tower takes of the pictures: with regions, their tokens behind the others."""
        blocks = self._towers.told_fusion().blocks
        seen = self.held(blocks) if blocks else self.full
        regions = self._towers.regions
        if regions is None:
            return seen

        def look(tokens_BTD: Tensor, *boxed: Tensor) -> tuple[Tensor, ...]:
            return (torch.cat([tokens_BTD, regions(tokens_BTD, *boxed)], dim=1),)

        (tokens_BTD,) = self.in_chunks(look, seen.tokens_BTD, *self.boxed)
        return Encoded(tokens_BTD, seen.prefix) if isinstance(seen, Encoded) else replace(seen, tokens_BTD=tokens_BTD)

    @cached_property
    def boxed(self) -> tuple[Tensor, Tensor]:
        """Where the pictures' regions are, see :meth:`mae_vlm.encoders.regions.Regions.boxed`."""
        assert self._towers.regions is not None
        return self._towers.regions.boxed(self.batch)

    @cached_property
    def fused(self) -> Fused:
        """Each picture and its caption, seen together."""
        return self.fuse(self.text)

    def fuse(self, text: EncodedText, image: Encoded | Held | None = None, causal: bool = False) -> Fused:
        """Any encoded texts, row by row with the batch's pictures or with other encoded ones, through the fusion tower."""
        fusion, seen, gives = self._towers.told_fusion(), self.seen if image is None else image, ("pooled_BD", "tokens_BTD", "patches_BND")
        given: list[str] = []

        def see(image_BTD: Tensor, text_BTD: Tensor, *words: Tensor) -> tuple[Tensor, ...]:
            shown = Encoded(image_BTD, seen.prefix) if isinstance(seen, Encoded) else replace(seen, tokens_BTD=image_BTD)
            found = fusion(shown, EncodedText(text_BTD, Words(*words)), causal)
            given[:] = [name for name in gives if getattr(found, name) is not None]
            return tuple(getattr(found, name) for name in given)

        words = text.words
        parts = self.in_chunks(see, seen.tokens_BTD, text.tokens_BTD, words.ids_BT, words.real_BT, words.word_BT, words.has_B)
        return Fused(**dict(zip(given, parts, strict=True)))

    # -- how

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once for this batch whichever parts ask for it by ``name``."""
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]
        return made

    def in_chunks(self, see: Callable[..., tuple[Tensor, ...]], *parts: Tensor) -> tuple[Tensor, ...]:
        """``see(*parts)``, batch first in each, in ``chunks`` parts where gradients are wanted: see the class."""
        if self._chunks == 1 or not torch.is_grad_enabled() or len(parts[0]) < self._chunks:
            return see(*parts)
        cut = zip(*(part.tensor_split(self._chunks) for part in parts), strict=True)
        found = [checkpoint(see, *some, use_reentrant=False) for some in cut]
        return tuple(torch.cat(some) for some in zip(*found, strict=True))
