"""The one loop, and the training forms of both towers."""

from .automatic import LEARNT_LOSS, STARTING_IMAGES, automatic_lr, automatic_steps, starting_loss
from .callbacks import CallbackSupportMixin, FitMonitor, with_callbacks
from .checkpoint import Checkpoint
from .early_stopping import EarlyStopping
from .encoders import Encoders
from .loop import learning_rate, train
from .objective import Objective, OneClass, SeveralLabels
from .state import TrainingState
from .task import Recipe, Task, steps_per_epoch

__all__ = [
    "LEARNT_LOSS",
    "STARTING_IMAGES",
    "CallbackSupportMixin",
    "Checkpoint",
    "EarlyStopping",
    "Encoders",
    "FitMonitor",
    "Objective",
    "OneClass",
    "Recipe",
    "SeveralLabels",
    "Task",
    "TrainingState",
    "automatic_lr",
    "automatic_steps",
    "learning_rate",
    "starting_loss",
    "steps_per_epoch",
    "train",
    "with_callbacks",
]
