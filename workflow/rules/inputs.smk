"""Inputs and identities of every rule, as functions of its wildcards.

The functions that take `output` give what must not be tracked: Snakemake leaves such params out of its records.
"""


def dataset_identity(wildcards):
    return plan.dataset(STUDY, wildcards.dataset)


def labels_identity(wildcards):
    return plan.labels(STUDY, cell_of(wildcards))


def train_identity(wildcards):
    return plan.train(STUDY, cell_of(wildcards), int(wildcards.get("member", 0)))


def embed_identity(wildcards):
    return plan.embed(STUDY, cell_of(wildcards), wildcards.view)


def query_identity(wildcards):
    return plan.query(STUDY, cell_of(wildcards))


def collect_identity(wildcards):
    return plan.collect(STUDY)


def report_identity(wildcards):
    return plan.report(STUDY)


def dataset_file(cell):
    return f"results/datasets/{cell.dataset}.h5"


def seed_set_input(wildcards):
    cell = cell_of(wildcards)
    made = [in_cell(cell, "labels.csv"), in_cell(cell, "cost/seed_set.json")]
    files = {"dataset": dataset_file(cell)}
    return unless_finished(made, labels_identity(wildcards), files)


def train_input(wildcards):
    cell = cell_of(wildcards)
    member, cost = "", "cost/train.json"
    if "member" in wildcards.keys():
        member = f"members/{wildcards.member}/"
        cost = f"cost/train_member{wildcards.member}.json"
    small = [in_cell(cell, f"{member}metrics.json"), in_cell(cell, cost)]
    made = [*small, in_cell(cell, f"{member}checkpoint.pt")]
    files = training_files(cell, member)
    return unless_finished(made, train_identity(wildcards), files)


def train_again_input(wildcards):
    """Nothing that anyone can make where the training is not finished: then Snakemake takes `train`.

    Inside a job of a cluster, which is always forced, the run outside has chosen.
    """
    cell, identity = cell_of(wildcards), train_identity(wildcards)
    finished = made_by(in_cell(cell, "metrics.json"), identity) and not forced()
    if workflow.is_main_process and not finished:
        return {"dataset": in_cell(cell, "unfinished")}
    return unless_finished(
        [in_cell(cell, "checkpoint.pt")], identity, training_files(cell)
    )


def finished_rounds():
    """Rounds, as a regular expression, with a finished training: where a checkpoint may have to be made again."""
    there = (
        f"{cell.round:03d}"
        for cell in STUDY.cells()
        if Path(in_cell(cell, "metrics.json")).exists()
    )
    return "|".join(sorted(set(there))) or "none"


def training_files(cell, member=""):
    """What a training reads. member: "", or the folder of a member of an ensemble"""
    previous = []
    if plan.warm(STUDY, cell):
        previous = in_cell(cell.previous.home, f"{member}checkpoint.pt")
    return {
        "dataset": dataset_file(cell),
        "labels": in_cell(cell, "labels.csv"),
        "previous": previous,
    }


def embed_input(wildcards):
    cell = cell_of(wildcards)
    made = [
        in_cell(cell, f"pool/{wildcards.view}.h5"),
        in_cell(cell, f"cost/embed_{wildcards.view}.json"),
    ]
    files = {
        "dataset": dataset_file(cell),
        "checkpoint": in_cell(cell, "checkpoint.pt"),
        "members": [
            in_cell(cell, f"members/{member}/checkpoint.pt")
            for member in views.members(wildcards.view)
        ],
    }
    return unless_finished(made, embed_identity(wildcards), files)


def query_input(wildcards):
    cell = cell_of(wildcards)
    entry = STUDY.strategies[STUDY.arms[cell.arm]]
    made = [in_cell(cell, "query.csv"), in_cell(cell, "cost/query.json")]
    files = {
        "dataset": dataset_file(cell),
        "labels": in_cell(cell.home, "labels.csv"),
        "views": [
            in_cell(cell.home, f"pool/{view}.h5") for view in plan.views_of(entry)
        ],
        "checkpoint": [],
    }
    if plan.sees_model(entry):
        files["checkpoint"] = in_cell(cell.home, "checkpoint.pt")
    return unless_finished(made, query_identity(wildcards), files)


def label_input(wildcards):
    cell = cell_of(wildcards)
    made = [in_cell(cell, "labels.csv"), in_cell(cell, "cost/label.json")]
    files = {
        "dataset": dataset_file(cell),
        "labels": in_cell(cell.previous.home, "labels.csv"),
        "query": in_cell(cell.previous, "query.csv"),
    }
    return unless_finished(made, labels_identity(wildcards), files)


def given_weights(wildcards, output):
    """The user's file that a training starts from; no input, which Snakemake might make, date anew or delete."""
    file = learners.checkpoint(STUDY.learners[wildcards.learner])
    return [file] if file else []


def device(wildcards, output):
    return config["device"]
