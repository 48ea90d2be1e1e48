"""The number of a process is told by one source, however many the environment has."""

import os

import pytest

from bfc_lightning.cli.processes import is_orphan, launcher, num_started, rank

STRAY = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "WORLD_SIZE")
SOURCES = ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_NAME", "BFC_RUN_FOLDER")

ELASTIC = {"TORCHELASTIC_RUN_ID": "none"}
SCRIPT = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "wide"}
TASK = {**SCRIPT, "SLURM_STEP_NUM_TASKS": "4"}
CHILD = {"BFC_RUN_FOLDER": "logs/tiny"}


@pytest.fixture
def variables(monkeypatch):
    """Sets variables, of which no others of their kind are there."""
    for name in (*STRAY, *SOURCES, "SLURM_NTASKS", "BFC_FIRST_PROCESS"):
        monkeypatch.delenv(name, raising=False)
    return lambda given: [monkeypatch.setenv(*each) for each in given.items()]


@pytest.mark.parametrize(
    ("given", "source", "number"),
    [
        (dict.fromkeys(STRAY, "1"), None, 0),
        ({**ELASTIC, "RANK": "0", "SLURM_PROCID": "1", "NODE_RANK": "1"}, "torchrun", 0),
        ({**TASK, **ELASTIC, "RANK": "2", "SLURM_PROCID": "0"}, "torchrun", 2),
        ({**TASK, "SLURM_PROCID": "3", "RANK": "0", "LOCAL_RANK": "0"}, "srun", 3),
        ({**TASK, "SLURM_JOB_NAME": "bash", "SLURM_PROCID": "3"}, None, 0),
        ({**SCRIPT, "SLURM_PROCID": "3"}, None, 0),
        ({**CHILD, "LOCAL_RANK": "1", "RANK": "0"}, "bfc", 1),
    ],
)
def test_number_is_that_of_the_launcher_alone(variables, given, source, number):
    variables(given)
    assert launcher() == source
    assert rank() == number


def test_job_script_is_one_process_and_its_tasks_are_several(variables):
    variables(SCRIPT)
    assert num_started() == 1
    variables(TASK)
    assert num_started() == 4


def test_process_whose_starter_is_gone_is_an_orphan(variables):
    assert not is_orphan()
    variables({**CHILD, "BFC_FIRST_PROCESS": str(os.getppid())})
    assert not is_orphan()
    variables({"BFC_FIRST_PROCESS": str(os.getpid())})  # someone else's parent
    assert is_orphan()
