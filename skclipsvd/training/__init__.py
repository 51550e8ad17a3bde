"""The one loop, and the training forms of both towers."""

from .automatic import automatic_lr, automatic_steps
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
    "automatic_lr",
    "automatic_steps",
    "learning_rate",
    "steps_per_epoch",
    "train",
    "with_callbacks",
]
