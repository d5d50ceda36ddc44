"""Where the Optuna storage of a run folder is: a journal beside everything else, or a database that is named there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.spec import Spec

if TYPE_CHECKING:
    from autoprune.study.database import Database
    from autoprune.study.journal import Journal

JOURNAL = "study.journal"
HEADER = "autoprune"  # the attribute of a study with what was asked for


def is_study(folder: Path) -> bool:
    """Whether a folder has a study, here or elsewhere."""
    from autoprune.study.database import PLACE

    return (folder / JOURNAL).is_file() or (folder / PLACE).is_file()


def opened(folder: Path, *, write: bool) -> Journal | Database:
    """The storage of a run folder, to be written by one driver alone."""
    from autoprune.study.database import Database
    from autoprune.study.journal import Journal

    if (folder / JOURNAL).is_file():
        return Journal(folder / JOURNAL, write=write)
    return Database(folder, write=write)


def begin(folder: Path, spec: Spec, header: Mapping[str, Any]) -> None:
    """Make an empty study for a run folder."""
    from optuna.study import StudyDirection

    from autoprune.study.database import Database
    from autoprune.study.journal import Journal, quiet

    named = {"minimize": StudyDirection.MINIMIZE, "maximize": StudyDirection.MAXIMIZE}
    directions = [named[o.direction] for o in spec.objectives]
    if spec.storage is None:
        made: Journal | Database = Journal(folder / JOURNAL, write=True)
        storage: Any = made.storage()
        with quiet():
            study = storage.create_new_study(directions, spec.name)
    else:
        Database.begin(folder, spec.storage, spec.name, directions)
        made = storage = Database(folder, write=True)
        study = storage.get_all_studies()[0]._study_id
    storage.set_study_user_attr(study, HEADER, header)
    # As `optuna.Study.set_metric_names` does, so that the axes of its plots and of the dashboard have names.
    storage.set_study_system_attr(study, "study:metric_names", [o.metric for o in spec.objectives])
    made.close()
