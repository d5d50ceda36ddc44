"""A trial in NNI's form: what it chose under NNI's names, and the search space that it is a point of.

`trial.json` is one entry of what `nnictl experiment export` writes, so that NNI's tuners can be told of it, and of a
model space of NNI its `parameter` is the sample that `nni.nas.space.model_context` takes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autoprune.candidate import architecture_of
from autoprune.errors import ArtifactError
from autoprune.evaluate import Evaluator
from autoprune.export.artifact import check_free
from autoprune.space import Choices
from autoprune.spec import nni_space
from autoprune.study import Study, Trial
from autoprune.task.model_space import space_of


def export_nni(study: Study, trial: Trial, evaluator: Evaluator, folder: Path) -> Path:
    """Write `trial.json` and `search_space.json`.

    Raises:
        ArtifactError: the folder is in use, or cannot be written.
    """
    check_free(folder)
    content = study.spec.space.nni or {}
    chosen = nni_space.parameters(content, trial.choices)
    if (space := space_of(evaluator.task.model)) is not None:
        labels = architecture_of(Choices(trial.choices))
        others = {name: value for name, value in chosen.items() if name not in labels}
        chosen = {**space.sample(labels), **others}
    first = study.spec.objectives[0].metric
    files: dict[str, Any] = {
        "trial.json": {
            "id": str(trial.number),
            "parameter": chosen,
            "value": {"default": trial.metrics[first], **trial.metrics},
        },
        "search_space.json": nni_space.described(content, study.space),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_text(json.dumps(data, indent=1), encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {error.strerror or error}") from None
    return folder
