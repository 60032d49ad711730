"""Jobs on SLURM: their names, which of them travel together, and what a start looks at.

A start looks after killed runs wherever its jobs run. (profiles/slurm starts it all; docs/cluster.md describes it.)
"""

import re

from snakemake.logging import logger

from allround.locks import alone_for_now, keep_what_is_incomplete
from allround.slurm import SlurmIsSilent, refuse_orphans, understand_states


# One seed set a seed, a second each: less than what queueing costs. It runs where snakemake runs.
localrules:
    seed_set,


onstart:
    gc.freeze()  # the plan: it stays
    gc.enable()
    if on_slurm():
        understand_states()
    with alone_for_now() as alone:
        if alone:
            look_after_killed_runs()
        elif workflow.is_main_process and has_used_slurm():
            logger.warning(
                "another snakemake is at work in this folder, so nobody has looked "
                "whether jobs of an earlier, killed run are still in SLURM's queue."
            )


def look_after_killed_runs():
    """Refuse to go on beside their jobs, keep what these have made. Other runs' jobs would look the same."""
    if has_used_slurm():
        no_orphans()
    if not (workflow.touch or workflow.execution_settings.ignore_incomplete):
        keep_what_is_incomplete()


def no_orphans():
    """End if an earlier run's jobs are still in SLURM's queue, wherever this run's jobs are to run."""
    try:
        refuse_orphans(Path.cwd(), patience=120 if on_slurm() else 20)
    except SlurmIsSilent as error:
        if on_slurm():
            remedy = (
                "On a login node, run the same command again once `squeue --me` works."
            )
            raise WorkflowError(f"{error} {remedy}") from None
        logger.warning(str(error))
    except AllroundError as error:
        raise WorkflowError(str(error)) from None


def has_used_slurm():
    """Whether jobs run on SLURM, or an earlier run's did: its plugin has left its logs."""
    return on_slurm() or Path(".snakemake/slurm_logs").exists()


def on_slurm():
    """Whether jobs run on SLURM; the snakemake inside a job has to come to the same requests as the one outside."""
    plugin = workflow.executor_plugin
    return plugin is not None and plugin.name in ("slurm", "slurm-jobstep")


def name_slurm_jobs():
    """Let squeue show the study: a job's name is this prefix and the run's id."""
    settings = workflow.executor_settings
    if on_slurm() and hasattr(settings, "jobname_prefix"):
        settings.jobname_prefix = re.sub(r"[^\w-]", "-", STUDY.name, flags=re.A)[:50]


def round_group(wildcards):
    """embed, query and label of one round are one SLURM job; a training is always alone.

    A group in which one job fails loses all its outputs. So round 0, which all strategies share, is embedded by itself.
    """
    return group_of(cell_of(wildcards))


def label_group(wildcards):
    """A label job opens round k with what round k-1 asked for, and travels with it."""
    return group_of(cell_of(wildcards).previous)


def report_group(wildcards):
    return STUDY.name if on_slurm() else None


def group_of(cell):
    """The name that squeue shows as the job's comment; a workstation groups nothing."""
    return "_".join([STUDY.name, *Path(cell.folder).parts]) if on_slurm() else None
