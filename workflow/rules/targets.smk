"""What the study asks for: the trainings that are still to be made, if what they write fits the disk."""

from snakemake.logging import logger

from allround import disk


def unfinished_metrics(wildcards):
    """The trainings that are still to be made; of a finished study Snakemake looks at no cell."""
    everything = forced()
    return [
        in_cell(cell, "metrics.json")
        for cell in STUDY.cells()
        if everything or not trained(cell)
    ]


def trained(cell):
    return made_by(in_cell(cell, "metrics.json"), plan.train(STUDY, cell))


def results_that_fit(wildcards):
    """The trainings still to be made; one line says what they will write, and the run ends if it cannot fit."""
    missing = unfinished_metrics(wildcards)
    if missing and workflow.is_main_process and not workflow.touch:
        say_need()
    return missing


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
        logger.error(str(error))
        sys.exit(1)  # Snakemake would wrap any other error into lines about the rule
    (logger.warning if tight else logger.info)(line)


def jobs_at_once():
    """How many trainings may run side by side: nodes or cores, and GPU slots where a GPU is used."""
    settings = workflow.resource_settings
    slots = settings.nodes or (settings.cores or 1) // config["threads"]
    if GPU:
        slots = min(slots, workflow.global_resources["gpu"].value)
    return max(1, slots)
