"""PointCMT: classifier enhancement, the student's classifier reads both codes alike.

Yan et al., "Let Images Give You More", NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from models.outputs import StudentOutput
from models.terms.base import Batch, Shape, Term
from models.terms.codes import check_code
from utils.fields import Field
from utils.settings import TermSettings


class ClassifierSettings(TermSettings):
    detach: bool = False  # no gradient through what the classifier says of the teacher's code


class Classifier(Term):
    """KL(softmax g(t) || softmax g(s)) of the student's classifier g, its code s and the teacher's
    code t, summed over the classes and averaged over the batch.

    paper: the sum over the batch, with a weight of 0.3 and batches of 32.
    here: the mean per shape, for a weight that does not depend on the batch: 0.3 x 32 = 9.6.

    Batch: ``codes`` (B, D) of the teacher. As published the gradient flows into the classifier
    through both of its answers.

    Raises:
        ConfigError: a student without a code of the width D.
    """

    name = "classifier"
    Settings = ClassifierSettings
    roles = {"student": ("classification",)}
    learns_from = "teacher"

    def __init__(
        self, settings: ClassifierSettings, network: nn.Module, fields: Mapping[str, Field]
    ):
        super().__init__(settings, network, fields)
        check_code(self.name, network, self.fields["codes"])

    @classmethod
    def reads(cls, settings: ClassifierSettings, network: nn.Module) -> dict[str, Shape | None]:
        return {"codes": None}

    @classmethod
    def changes(cls, settings: ClassifierSettings) -> list[str]:
        return ["classifier detached"] if settings.detach else []

    def forward(self, batch: Batch, output: StudentOutput) -> Tensor:
        taught = self.network.classify(batch["codes"]).float()  # (B, K)
        taught = taught.detach() if self.settings.detach else taught
        own = F.log_softmax(output.logits.float(), dim=1)
        taught = F.log_softmax(taught, dim=1)
        return F.kl_div(own, taught, reduction="batchmean", log_target=True)
