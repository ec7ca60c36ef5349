"""What can be configured, with types and defaults. The recipes of the papers are the YAML files in
``scripts/configs/recipes``; ``a.b=c`` on the command line has the last word."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from utils.errors import ConfigError
from utils.fields import holds_codes

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Factor = Annotated[float, Field(gt=0)]
RunName = Annotated[str, Field(pattern=r"^[\w+-][\w.+-]*$")]  # it becomes files and folders


class Group(BaseModel):
    """Base of all groups: unknown keys are errors, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataSettings(Group):
    name: str
    root: str = "data"
    # Keep what batches hold on the training device, decoded: auto, where it takes no more than half
    # of the memory that is free there; false reads it anew in every epoch.
    cache_on_device: Literal["auto"] | bool = "auto"
    workers: Annotated[int, Field(ge=0)] | None = None  # that read; null: one per core; 0: none
    class_balanced: bool = False  # draw classes evenly, whatever their numbers of shapes
    size: Positive | None = None  # side in pixels that views are resized to; null: as stored
    # random views of each shape per training step, the same in all fields of views; null: all
    views: Positive | None = None


class PointDataSettings(DataSettings):
    points: Positive = 1024  # the first so many of the stored farthest-point order


PointChange = Literal["dropout", "scale", "shift", "rotation", "jitter"]


class PointAugmentation(Group):
    """Random changes of a training cloud. The camera-seen rows of visibility follow the points.
    Lengths are in units of the unit sphere's radius."""

    order: tuple[PointChange, ...] = ("dropout", "scale", "shift", "rotation", "jitter")
    scale: tuple[Factor, Factor] = (1.0, 1.0)  # factor drawn uniformly
    anisotropic: bool = False  # one factor per axis
    shift: Weight = 0.0  # each axis moves by U[-shift, shift]
    dropout: Fraction = 0.0  # a ratio U[0, dropout] of the points is replaced by the first one
    # about the vertical axis through the origin, or by any rotation, uniformly
    rotation: Literal["none", "z", "any"] = "none"
    rotation_degrees: Annotated[float, Field(gt=0, le=180)] = 180.0  # about z, by U[-d, d]
    jitter: Weight = 0.0  # standard deviation of the noise on every coordinate of every point
    jitter_clip: Factor = 0.05  # largest noise

    @cached_property
    def active(self) -> list[str]:
        """The changes that are on."""
        on = {
            "dropout": self.dropout > 0,
            "scale": self.scale != (1.0, 1.0),
            "shift": self.shift > 0,
            "rotation": self.rotation != "none",
            "jitter": self.jitter > 0,
        }
        return [name for name, is_on in on.items() if is_on]

    @model_validator(mode="after")
    def _fits_together(self) -> PointAugmentation:
        for name in self.order:
            if self.order.count(name) > 1:
                raise ValueError(f"order has {name} more than once, expected each change once")
        for name in self.active:
            if name not in self.order:
                raise ValueError(f"{name} is on and not in order: list it there or turn it off")
        if self.rotation != "z" and self.rotation_degrees != 180:
            raise ValueError(f"rotation_degrees is of rotation=z, found rotation={self.rotation}")
        return self


class ViewAugmentation(Group):
    """Random changes of the views, the same for all views of a shape."""

    flip: bool = False  # left-right with probability one half
    scale: tuple[Factor, Factor] = (1.0, 1.0)  # zoom factor drawn uniformly
    shift: Weight = 0.0  # moves by U[-shift, shift] of the image side
    brightness: Fraction = 0.0  # values times U[1 - b, 1 + b]
    contrast: Fraction = 0.0  # distance from the view's mean grey times U[1 - c, 1 + c]
    saturation: Fraction = 0.0  # distance from the pixel's grey times U[1 - s, 1 + s]; colour views


class OptimSettings(Group):
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    min_lr: Weight = 0.001  # end of the cosine, floor of the steps
    momentum: Fraction = 0.9  # of SGD
    weight_decay: Weight = 1e-4  # adamw: not of norms, biases, tokens
    schedule: Literal["cosine", "step"] = "cosine"  # once per epoch
    warmup_epochs: Annotated[int, Field(ge=0)] = 0  # linear rise before the schedule begins
    step_epochs: Positive = 20
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.7
    clip_grad: Annotated[float, Field(gt=0)] | None = None  # largest norm of the gradient


class TrainSettings(Group):
    epochs: Positive = 200
    batch_size: Positive = 32  # shapes per step, over all processes together
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    # autocast; auto: bf16 where the device has instructions for it, otherwise none
    amp: Literal["none", "bf16", "auto"] = "none"
    eval_every: Positive = 10  # epochs between evaluations for the log; never a selection
    sync_norm: bool = True  # batch statistics of all processes together, not of each its own
    compile: bool = False  # the method, by torch.compile (needs a C++ compiler on a CPU)
    # a step as one CUDA graph; auto: on one GPU, where the step can be recorded
    cuda_graph: Literal["auto"] | bool = "auto"
    pictures: bool = True  # view grid, visibility, confusion matrix, embedding in TensorBoard


class ProtocolSettings(Group):
    """The result is the last epoch, always; the test split is never used to choose anything."""

    val_fraction: Fraction = 0.0  # part of train, per class, that is held out to choose settings
    val_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class RunSettings(Group):
    name: RunName | None = None  # null: made from the data, the model and the seed
    device: str = "auto"  # auto: CUDA where there is one
    threads: Annotated[int, Field(ge=0)] = 0  # CPU threads; 0: PyTorch's choice
    dir: str = "expt/runs"
    checkpoints: str = "ckpt"
    overwrite: bool = False  # throw the run of this name away and begin again


class TeacherModelSettings(Group):
    task: Literal["classification", "segmentation", "autoencoder"] = "classification"
    backbone: str = "mobilenet_v2"  # one of torchvision, or timm/NAME
    weights: str = "imagenet"  # none, imagenet or the path of a state dict of the backbone
    normalise: Literal["imagenet", "none"] = "imagenet"
    # of classification. pointmcd: layers that make the codes; mvcnn: the backbone's features are
    # the codes, as PointCMT has it
    head: Literal["pointmcd", "mvcnn"] = "pointmcd"


class GeneratorModelSettings(Group):
    task: Literal["generation"]  # clouds from the codes of a bank
    layers: Literal[1, 3] = 1
    dropout: Fraction = 0.5  # before the last layer


class StudentModelSettings(Group):
    task: Literal["classification", "segmentation"] = "classification"
    encoder: str = "pointnet"
    head: str = "default"
    # farthest: centres are sampled from the augmented cloud, as published; stored: the first points
    # of the stored farthest-point order are the centres, which costs nothing; off_origin: farthest,
    # but nothing within sqrt(1e-3) of the origin, as in some releases
    sampling: Literal["farthest", "stored", "off_origin"] = "farthest"
    code_size: Positive = 512  # channels before the last layer, of the heads pointmcd and pointcmt


class TermSettings(Group):
    """What every loss term has; its own options are in its file, ``models/terms``."""

    weight: Weight = 0.0  # 0: not computed, and nothing is read for it


class Terms(Group):
    """The settings of loss terms by name; :func:`models.terms.with_terms` gives it its fields. What
    is recorded of a run are the terms in force, so that a new one changes no old run."""

    @model_serializer(mode="wrap")
    def _in_force(self, serialise: Callable[[Terms], dict[str, Any]]) -> dict[str, Any]:
        return {name: term for name, term in serialise(self).items() if term["weight"]}


class TargetSettings(Group):
    """What a student is taught with, whatever term reads it."""

    bank: str | None = None  # file of export_teacher.py
    views: Positive | None = None  # how many of the views teach, evenly chosen; null: all
    visibility: Literal["stored", "hpr", "all", "random"] = "stored"  # random: as many per view
    # control: what the teacher says of another shape, of any class or of the same
    shuffle: Literal["none", "all", "class"] = "none"
    # standard: each channel of the codes is shifted and scaled to mean 0 and deviation 1 over the
    # training shapes and the views that teach; for frozen networks. Logits stay as they are
    normalise: Literal["none", "standard"] = "none"

    def changes(self, read: Collection[str]) -> list[str]:
        """What is not as usual in the fields that are ``read``, in words: part of the label of a
        run that a teacher taught."""
        seen = "visibility" in read
        by_view = seen or any(name.startswith("view") for name in read)
        words = {
            f"visibility {self.visibility}": seen and self.visibility != "stored",
            f"{self.views} views": by_view and self.views is not None,
            "shuffled codes": self.shuffle == "all",
            "codes shuffled within classes": self.shuffle == "class",
            "normalised codes": self.normalise != "none" and any(map(holds_codes, read)),
        }
        return [word for word, changed in words.items() if changed]


class TrainingConfig(Group):
    """What every training has, and what is checked of it as a whole."""

    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _leaves_epochs_after_the_warm_up(self):
        warmup, epochs = self.optim.warmup_epochs, self.train.epochs
        if warmup >= epochs:
            raise ConfigError(
                f"optim.warmup_epochs={warmup} leaves nothing of train.epochs={epochs}: give fewer"
            )
        return self


class TeacherConfig(TrainingConfig):
    """Configuration of ``train_teacher.py``."""

    data: DataSettings
    teacher: TeacherModelSettings = TeacherModelSettings()
    init: str | None = None  # checkpoint of another teacher, whose backbone this one starts from
    terms: Terms = Terms()
    augment: ViewAugmentation = ViewAugmentation()

    @property
    def changes(self) -> tuple[PointAugmentation, ViewAugmentation]:
        """What changes at random in training."""
        return PointAugmentation(), self.augment

    @property
    def taught_by(self) -> TargetSettings | None:
        """Where what it reads of another teacher comes from."""
        return None


class GeneratorTargets(Group):
    bank: str  # file of export_teacher.py, whose codes become clouds


class GeneratorConfig(TrainingConfig):
    """Configuration of ``train_teacher.py`` with ``teacher.task=generation``."""

    data: PointDataSettings
    teacher: GeneratorModelSettings
    terms: Terms = Terms()
    targets: GeneratorTargets
    augment: PointAugmentation = PointAugmentation()

    @property
    def changes(self) -> tuple[PointAugmentation, ViewAugmentation]:
        return self.augment, ViewAugmentation()

    @property
    def taught_by(self) -> TargetSettings:
        return TargetSettings(bank=self.targets.bank)


class StudentConfig(TrainingConfig):
    """Configuration of ``train_student.py``."""

    data: PointDataSettings
    student: StudentModelSettings = StudentModelSettings()
    init: str | None = None  # checkpoint of another student, whose encoder this one starts from
    method: RunName = "pointmcd"  # what the terms make together: the label in names and tables
    terms: Terms = Terms()
    targets: TargetSettings = TargetSettings()
    augment: PointAugmentation = PointAugmentation()
    augment_views: ViewAugmentation = ViewAugmentation()  # of terms that read views
