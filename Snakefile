"""allround: deep active learning as a DAG of cached files.

snakemake --cores 4                                      the study that config/config.yaml names
snakemake --cores 4 --config study=fashion-mnist-cpu     another one, by name or by path
"""

from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"  # the checked study, cells, what is finished
include: "workflow/rules/inputs.smk"  # inputs and identities of every rule
include: "workflow/rules/targets.smk"  # what is still to be made, and whether it fits the disk
include: "workflow/rules/slurm.smk"  # names, groups and orphans of jobs on SLURM
include: "workflow/rules/resources.smk"  # GPU, memory and time that a job asks for
include: "workflow/rules/data.smk"  # sources -> dataset.h5 -> seed set
include: "workflow/rules/train.smk"  # train -> embed, round after round
include: "workflow/rules/query.smk"  # query -> label, round after round
include: "workflow/rules/report.smk"  # tables, figures, report.html


onerror:
    tell_of_full_disk()


rule all:
    """Everything that the study asks for."""
    default_target: True
    input:
        f"{STUDY_DIR}/report.html",
        results_that_fit,  # so that a deleted result is made again
