"""What all rules share: the checked study, cells, and which inputs a job still needs."""

import gc
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.enums import RerunTrigger

gc.disable()  # until the first job: a plan is millions of objects that all stay
SOURCE = Path(workflow.basedir) / "src"
sys.path.insert(0, str(SOURCE))  # this clone's code, whatever is installed elsewhere

from allround import gpus, layout, learners, plan, study, views
from allround.artifacts import identity_of
from allround.errors import AllroundError
from allround.launch import offer, withdraw
from allround.job import export_source
from allround.locks import recover, tell_of_full_disk


def checked_study():
    """The study that the configuration names; every mistake in it is one line, before any job starts."""
    try:
        return study.load(config, Path(workflow.basedir), look=workflow.is_main_process)
    except AllroundError as error:
        raise WorkflowError(str(error)) from None


export_source(SOURCE)
ALONE = workflow.is_main_process and recover()
if workflow.is_main_process:
    offer()
else:
    withdraw()
STUDY = checked_study()
STUDY_DIR = f"results/studies/{STUDY.name}"
CELL = "results/{dataset}/{learner}/{start}/{arm}/seed{seed}/round{round}"
START = CELL.replace("{arm}", layout.START).replace("{round}", "000")
GPU = int(study.wants_gpu(config["device"]))
GPU_PLACES = gpus.share(config["jobs_per_gpu"], config["device"])
if "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", GPU_PLACES)


wildcard_constraints:
    dataset="[^/]+",
    learner="[^/]+",
    start="[a-z]+[0-9]+",
    arm="start|[^/]+@[0-9]+",
    seed="[0-9]+",
    round="[0-9][0-9][0-9]",
    view="[a-z_]+[0-9]*",
    member="[1-9][0-9]*",


def cell_of(wildcards):
    """The cell that a rule's wildcards name; START rules leave arm and round out."""
    return layout.Cell(
        wildcards.dataset,
        wildcards.learner,
        wildcards.start,
        wildcards.get("arm", layout.START),
        int(wildcards.seed),
        int(wildcards.get("round", 0)),
    )


def in_cell(cell, name):
    """Path of a file of a cell."""
    return f"results/{cell.folder}/{name}"


def kept(kind, path):
    """A large file: deleted once nothing needs it, unless the configuration keeps its kind."""
    return path if kind in config["keep"] else temp(path)


def unless_finished(outputs, identity, inputs):
    """A job's inputs, or nothing where its outputs are there and were made under this very identity.

    The identity covers everything upstream, so a finished job has no reason to look at its inputs. Declaring
    them would rerun it whenever a deleted embedding or checkpoint is made again for somebody else: Snakemake
    reruns the consumers of a file that it makes, ancient() or not, if that file was missing.
    """
    if all(made_by(path, identity) for path in outputs) and not forced():
        return {}
    return inputs


def made_by(path, identity):
    """Whether Snakemake recorded this output, complete, under this identity (--touch records it too)."""
    if not Path(path).exists():
        return False
    persistence = workflow.persistence
    if persistence._filter_incomplete_keys([path]):
        return False
    record = persistence._read_record(path)
    if record is not None:
        return record.params == [repr(identity)]
    found = identity_of(Path(path))
    if found not in (None, identity) and not workflow.touch:
        logger.error(
            f"{path}: was made by another configuration, and .snakemake/ has no record of it; "
            "delete it to make it again, or accept everything as it is with --touch --forceall."
        )
        sys.exit(1)  # Snakemake would wrap any other error into lines about the rule
    return True


def forced():
    """Whether the command line forces jobs that a training may follow from: then all of them get their inputs."""
    settings = workflow.dag_settings
    if settings.rerun_triggers - {RerunTrigger.MTIME, RerunTrigger.PARAMS}:
        raise WorkflowError(
            "only the rerun triggers mtime and params fit this workflow: finished jobs declare no inputs, and their "
            "identity covers code; use profiles/default, or pass --rerun-triggers mtime params."
        )
    trainings_follow = settings.forcerun - {"train_again", "collect", "report"}
    return bool(settings.forceall or trainings_follow or settings.forcetargets)
