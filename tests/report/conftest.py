import pytest
from real_studies import add_trials, new_study


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    """A study with sixty trials, some failed, some rejected; only to be looked at."""
    with new_study(tmp_path_factory.mktemp("runs") / "digits") as study, study.clock():
        add_trials(study, 60)
    return study


@pytest.fixture
def empty(tmp_path):
    """A study without a trial, open for writing."""
    with new_study(tmp_path / "empty") as study:
        yield study
