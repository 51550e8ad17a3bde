"""The one loop, and the training forms of both towers."""

from .callbacks import CallbackSupportMixin, FitMonitor, with_callbacks
from .early_stopping import EarlyStopping
from .encoders import Encoders
from .loop import learning_rate, train
from .task import Recipe, Task, steps_per_epoch

__all__ = [
    "CallbackSupportMixin",
    "EarlyStopping",
    "Encoders",
    "FitMonitor",
    "Recipe",
    "Task",
    "learning_rate",
    "steps_per_epoch",
    "train",
    "with_callbacks",
]
