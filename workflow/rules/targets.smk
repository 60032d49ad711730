"""What the study asks for: the trainings still to be made, if nobody is at them and what they write fits the disk."""

import time

from allround import datasets, disk, outdated
from allround.remaining import untold
from allround.status import running


def unfinished():
    """The cells that are still to be trained; of a finished study Snakemake looks at none."""
    everything = forced()
    return [cell for cell in STUDY.cells() if everything or not trained(cell)]


def metrics_of(cells):
    return [in_cell(cell, "metrics.json") for cell in cells]


def outdated_metrics(wildcards):
    """The trainings that the tables do not know yet: those to be made, and those made since with another result.

    The latter by paths that belong to no rule: a finished training in the plan would stand in the way of train_again.
    """
    missing = metrics_of(unfinished())
    tables = Path(f"{STUDY_DIR}/rounds.csv")
    since, now, known = changed(tables), time.time(), set(missing)
    if since is None:
        return missing
    made = {in_cell(cell, "metrics.json"): cell for cell in STUDY.cells()}
    newer = [
        cell
        for path, cell in made.items()
        if path not in known and since < (changed(Path(path)) or 0) <= now
    ]
    other = (in_cell(cell, "metrics.json") for cell in untold(newer, tables))
    return missing + [str(Path(path).absolute()) for path in other]


def changed(path):
    """When a file was written; None where it is missing, or deleted just now by another run."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def trained(cell):
    return made_by(in_cell(cell, "metrics.json"), plan.train(STUDY, cell))


def results_that_fit(wildcards):
    """The trainings still to be made; one line says what they will write, and the run ends if it cannot fit."""
    name_slurm_jobs()  # here, because the executor is made once this is planned
    if workflow.is_main_process and not (ALONE or workflow.dryrun) and plans_jobs():
        refuse_second_run()
    missing = unfinished()
    if missing and workflow.is_main_process and not workflow.touch and plans_jobs():
        refuse_lost_source()
        say_need()
        if (line := outdated.warning(STUDY, missing, forced())) is not None:
            logger.warning(line)
    return metrics_of(missing)


def plans_jobs():
    """Whether jobs are to run, or would in a dry run; not where Snakemake lists, deletes or draws."""
    return workflow.executor_plugin is not None and not workflow.dag_settings.until


def refuse_second_run():
    """End, if this very study is running here: Snakemake would stumble over files that come and go while it plans."""
    if (other := running(STUDY.name)) is not None:
        logger.error(
            f"study '{STUDY.name}' is running here already ({other}): wait for its end, or stop it with Ctrl-C. "
            "`python -m allround.status` tells how far it is."
        )
        sys.exit(1)


def refuse_lost_source():
    """End, if a dataset would be deleted to be made again, and what it was made from is gone."""
    for name, entry in STUDY.datasets.items():
        made = layout.dataset_path("results", name)
        if not made.exists() or made_by(str(made), plan.dataset(STUDY, name)):
            continue
        source, data = entry["source"], Path(config["data"])
        if fault := datasets.missing(source, data, entry["options"]):
            logger.error(
                f"{made}: was made by other settings or code and would be made again, but {fault} To keep it, undo "
                "the change; if that cannot change the images, accept it with `snakemake --touch`."
            )
            if not workflow.dryrun:
                sys.exit(1)


def say_need():
    try:
        need = disk.need(
            STUDY,
            data=Path(config["data"]),
            keep=config["keep"],
            jobs=jobs_at_once(),
            made=made_by,
        )
        line, tight = disk.check(need, STUDY.name, Path("results"))
    except AllroundError as error:
        if workflow.dryrun:
            logger.warning(str(error))
            return
        logger.error(str(error))
        sys.exit(1)  # Snakemake would wrap any other error into lines about the rule
    (logger.warning if tight else logger.info)(line)


def jobs_at_once():
    """How many trainings may run side by side: nodes or cores, and GPU slots where a GPU is used."""
    settings = workflow.resource_settings
    slots = settings.nodes or (settings.cores or 1) // config["threads"]
    if GPU and not settings.nodes:
        slots = min(slots, workflow.global_resources["gpu"].value)
    return max(1, slots)
