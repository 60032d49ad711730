"""Inputs and identities of every rule, as functions of its wildcards.

The functions that take `output` give what must not be tracked: Snakemake leaves such params out of its records.
"""


def dataset_identity(wildcards):
    return plan.dataset(STUDY, wildcards.dataset)


def labels_identity(wildcards):
    return plan.labels(STUDY, cell_of(wildcards))


def train_identity(wildcards):
    return plan.train(STUDY, cell_of(wildcards))


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
    cell, identity = cell_of(wildcards), train_identity(wildcards)
    small = [in_cell(cell, "metrics.json"), in_cell(cell, "cost/train.json")]
    made = [*small, in_cell(cell, "checkpoint.pt")]
    files = {
        "dataset": dataset_file(cell),
        "labels": in_cell(cell, "labels.csv"),
        "previous": [],
    }
    if plan.warm(STUDY, cell):
        files["previous"] = in_cell(cell.previous.home, "checkpoint.pt")
    if made_by(
        made[0], identity
    ):  # it runs again only if somebody needs its checkpoint
        files = {name: ancient(file) if file else [] for name, file in files.items()}
    return unless_finished(made, identity, files)


def embed_input(wildcards):
    cell = cell_of(wildcards)
    made = [
        in_cell(cell, f"pool/{wildcards.view}.h5"),
        in_cell(cell, f"cost/embed_{wildcards.view}.json"),
    ]
    files = {
        "dataset": dataset_file(cell),
        "checkpoint": in_cell(cell, "checkpoint.pt"),
    }
    return unless_finished(made, embed_identity(wildcards), files)


def query_input(wildcards):
    cell = cell_of(wildcards)
    needs = STUDY.strategies[STUDY.arms[cell.arm]]["needs"]
    made = [in_cell(cell, "query.csv"), in_cell(cell, "cost/query.json")]
    files = {
        "dataset": dataset_file(cell),
        "labels": in_cell(cell.home, "labels.csv"),
        "views": [in_cell(cell.home, f"pool/{view}.h5") for view in needs],
    }
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


def all_metrics(wildcards):
    return [in_cell(cell, "metrics.json") for cell in STUDY.cells()]


def device(wildcards, output):
    return config["device"]


def data_folder(wildcards, output):
    return config["data"]


def memory_gb(wildcards, output):
    return config["memory_gb"]


def labels_needed(wildcards, output):
    return STUDY.labels_needed
