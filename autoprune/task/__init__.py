"""What is searched for: a model, its data, a loss and a metric."""

from autoprune.task.anomaly import AnomalyTask
from autoprune.task.check import (
    BUILT_IN,
    KINDS,
    READY,
    check_task,
    evaluate_metrics,
    example_inputs,
    load_task,
    predict,
)
from autoprune.task.check_model import Problem, model_problems
from autoprune.task.classification import ClassificationTask, MultiLabelTask
from autoprune.task.contract import IGNORED, Batch, Budget, Data, Split, Summarizes, Task, TrainsItself
from autoprune.task.detection import DetectionTask
from autoprune.task.inputs import CropAndFlip, InputFormat
from autoprune.task.language import LanguageModelTask, TokenClassificationTask
from autoprune.task.output import main_output
from autoprune.task.parts import make_data, split_rows
from autoprune.task.regression import RegressionTask
from autoprune.task.segmentation import SegmentationTask
from autoprune.task.sources import load_model, model_factory
from autoprune.task.splits import ArraySplit, LoaderSplit

__all__ = [
    "BUILT_IN",
    "IGNORED",
    "KINDS",
    "READY",
    "AnomalyTask",
    "ArraySplit",
    "Batch",
    "Budget",
    "ClassificationTask",
    "CropAndFlip",
    "Data",
    "DetectionTask",
    "InputFormat",
    "LanguageModelTask",
    "LoaderSplit",
    "MultiLabelTask",
    "Problem",
    "RegressionTask",
    "SegmentationTask",
    "Split",
    "Summarizes",
    "Task",
    "TokenClassificationTask",
    "TrainsItself",
    "check_task",
    "evaluate_metrics",
    "example_inputs",
    "load_model",
    "load_task",
    "main_output",
    "make_data",
    "model_factory",
    "model_problems",
    "predict",
    "split_rows",
]
