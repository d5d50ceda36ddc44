"""What is searched for: a model, its data, a loss and a metric."""

from autoprune.task.check import (
    BUILT_IN,
    check_task,
    evaluate_metrics,
    example_inputs,
    load_task,
    predict,
)
from autoprune.task.contract import Batch, Data, Split, Task
from autoprune.task.inputs import CropAndFlip, InputFormat
from autoprune.task.parts import make_data, split_rows
from autoprune.task.ready import ClassificationTask, RegressionTask
from autoprune.task.splits import ArraySplit, LoaderSplit

__all__ = [
    "BUILT_IN",
    "ArraySplit",
    "Batch",
    "ClassificationTask",
    "CropAndFlip",
    "Data",
    "InputFormat",
    "LoaderSplit",
    "RegressionTask",
    "Split",
    "Task",
    "check_task",
    "evaluate_metrics",
    "example_inputs",
    "load_task",
    "make_data",
    "predict",
    "split_rows",
]
