"""What a training sees of some shapes: in another order and changed anew in every epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from data.augment import augment_points, augment_views
from data.batches import epoch_steps, training_batches
from data.datasets import Batch, ShapeSet
from data.rng import sample_keys, uniform
from utils.errors import ConfigError
from utils.settings import PointAugmentation, ViewAugmentation

EPOCH = "@epoch"  # among what a batch is drawn from, its number: () int64, on the device


class TrainingBatches:
    """The shuffled, augmented batches of a process, epoch by epoch.

    They are made in two parts. ``inputs(epoch)`` gives what differs between the steps of an epoch,
    ``draw(inputs)`` makes the batch of it, on the device alone: the same in a CUDA graph and
    outside. ``batches(epoch)`` is both.

    Args:
        batch_size: over all processes together. seed: of the order and of all changes.
        points, views: how clouds and images change.

    Attributes:
        steps: batches of an epoch.

    Raises:
        ConfigError: a change of colours, and the views are grey; see also
            :func:`data.batches.epoch_steps`.
    """

    def __init__(
        self,
        shapes: ShapeSet,
        batch_size: int,
        seed: int,
        points: PointAugmentation,
        views: ViewAugmentation,
    ):
        self.shapes, self.batch_size, self.seed = shapes, batch_size, seed
        self.points, self.views = points, views
        self.steps = epoch_steps(len(shapes), batch_size)
        for reader in shapes.images:
            if reader.name == "views" and reader.shape[1] == 1 and views.saturation > 0:
                raise ConfigError(
                    f"saturation={views.saturation}: the views of {shapes.split.name} are grey, "
                    "expected 0"
                )

    def __call__(self, epoch: int) -> Iterator[Batch]:
        return map(self.draw, self.inputs(epoch))

    def inputs(self, epoch: int) -> Iterator[Batch]:
        """What each batch is drawn from: see :meth:`ShapeSet.inputs`, and the epoch's number."""
        shapes = self.shapes
        balance = shapes.split.labels if shapes.data.class_balanced else None
        drawn = training_batches(shapes.members, self.batch_size, self.seed, epoch, balance)
        number = torch.full((), epoch, device=shapes.device)  # without a wait for the device
        for inputs in shapes.inputs(drawn, self._draw_views(drawn, epoch)):
            yield inputs | {EPOCH: number}

    def draw(self, inputs: Batch) -> Batch:
        """The batch, augmented."""
        inputs = dict(inputs)
        epoch = inputs.pop(EPOCH)

        def change(batch: Batch, copy: int) -> Batch:
            batch = augment_points(batch, self.points, self.seed, epoch, copy)
            return augment_views(batch, self.views, self.seed, epoch, copy)

        return self.shapes.draw(inputs, change)

    @property
    def waited(self) -> float:
        """See :attr:`ShapeSet.waited`."""
        return self.shapes.waited

    def _draw_views(self, drawn: Tensor, epoch: int) -> Tensor | None:
        """Random views of each shape, anew in every epoch: (steps, B, n), places in
        ``ShapeSet.views``, in host memory for who reads files."""
        count = self.shapes.random_views
        if count is None:
            return None
        keys = sample_keys(self.seed, epoch, drawn.flatten())
        order = uniform(keys, len(self.shapes.views), stream=9).argsort(dim=1)
        return order[:, :count].view(*drawn.shape, -1)
