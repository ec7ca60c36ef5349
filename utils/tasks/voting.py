"""The class of a cloud by a vote over scaled copies of it, as PointMLP and PointCMT test theirs.

They repeat the vote 300 times and report the best repeat, which is a choice on the test split. Here
it is the mean of all repeats, under a name of its own in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from utils.distributed import is_main, world_size
from utils.errors import ConfigError
from utils.metrics import confusion_matrix
from utils.progress import Progress
from utils.tasks.base import Arrays, Batch, Report, Task
from utils.tasks.shapes import Classification

PASSES = 10  # of a vote


class Vote(Classification):
    """Clouds into classes, each by ``repeats`` votes.

    A vote is the mean of the softmax over ``PASSES`` passes: the first sees the cloud as it is,
    every other one scaled by a factor per axis.

    published: the cloud is scaled in place, so that the factors of a vote multiply up from pass to
    pass. here: the same.

    Args:
        task: of the network to test.
        draw: factors of a vote, ``(index (B,), number of the repeat) -> (PASSES - 1, B, 3)``.
        shapes: how many there are, for the display of progress.

    Raises:
        ConfigError: a network for another task, or one that sees views.
    """

    def __init__(
        self, task: Task, repeats: int, draw: Callable[[Tensor, int], Iterable[Tensor]], shapes: int
    ):
        super().__init__(task.network, task.classes, task.ranges)
        if type(task) is not Classification or "points" not in self.network.fields:
            raise ConfigError(
                "--vote scales the clouds of a classification student, found a network for "
                f"{task.name} of {', '.join(self.network.fields)}"
            )
        self.repeats, self.draw = repeats, draw
        self.progress = Progress(shapes * repeats, "votes", shown=is_main())

    def compute(self, batch: Batch) -> Batch:
        plain, votes = self._shares(batch, batch["points"]), []
        for repeat in range(self.repeats):
            points, total = batch["points"], plain
            for factors in self.draw(batch["index"], repeat):
                points = points * factors.unsqueeze(1)  # (B, N, 3)
                total = total + self._shares(batch, points)
            votes.append(total.argmax(dim=1))
            self.progress.update(len(points) * world_size())
        return {"votes": torch.stack(votes, dim=1)}  # (B, repeats)

    def _shares(self, batch: Batch, points: Tensor) -> Tensor:
        logits = self.network.forward_batch(batch | {"points": points}).logits
        return logits.float().softmax(dim=1)  # (B, K)

    def confusion(self, outputs: Arrays) -> np.ndarray:
        """Of all repeats together, so that its accuracies are the means of theirs."""
        labels = outputs["label"].repeat(self.repeats)
        return confusion_matrix(labels, outputs["votes"].flatten(), len(self.classes))

    def report(self, outputs: Arrays) -> Report:
        report = super().report(outputs)
        right = 100.0 * (outputs["votes"] == outputs["label"][:, None]).mean(axis=0)  # (repeats,)
        spread = {"deviation": float(right.std(ddof=1))} if self.repeats > 1 else {}
        said = f", mean of {self.repeats} votes of {PASSES} passes"
        said += "".join(f" (deviation {value:.2f})" for value in spread.values())
        return replace(report, columns=report.columns | spread, headline=report.headline + said)

    def predictions(self, outputs: Arrays) -> Arrays:
        return {"votes": outputs["votes"]}
