"""The learner's half of a round: train a checkpoint, embed the pool.

A finished job declares no inputs (see unless_finished).
"""


def train_identity(wildcards):
    return plan.train(STUDY, cell_of(wildcards))


def train_input(wildcards):
    cell = cell_of(wildcards)
    files = {
        "dataset": ancient(f"results/datasets/{cell.dataset}.h5"),
        "labels": in_cell(cell, "labels.csv"),
        "previous": [],
    }
    if plan.warm(STUDY, cell):
        files["previous"] = ancient(in_cell(cell.previous.home, "checkpoint.pt"))
    made = [in_cell(cell, "checkpoint.pt"), in_cell(cell, "metrics.json")]
    return unless_finished(made, train_identity(wildcards), files)


def embed_identity(wildcards):
    return plan.embed(STUDY, cell_of(wildcards), wildcards.view)


rule train:
    """checkpoint.pt, and metrics.json: accuracy, nll, ece, per-class accuracy on the test set."""
    input:
        unpack(train_input),
    output:
        checkpoint=kept("checkpoints", CELL + "/checkpoint.pt"),
        metrics=CELL + "/metrics.json",
        cost=CELL + "/cost/train.json",
    log:
        CELL + "/log/train.log",
    threads: config["threads"]
    resources:
        gpu=int(ON_GPU),
        mem_mb=8000,
        runtime=240,
    params:
        identity=train_identity,
    shell:
        "python -m allround.stages.train"
        " --dataset {input.dataset:q}"
        " --labels {input.labels:q}"
        " --previous {input.previous:q}"
        " --checkpoint {output.checkpoint:q}"
        " --metrics {output.metrics:q}"
        " --cost {output.cost:q}"
        " --identity {params.identity:q}"
        " --device {config[device]}"
        " --threads {threads}"
        " > {log:q} 2>&1"


rule embed:
    """pool/<view>.h5: one row per training example, from the round's checkpoint."""
    input:
        dataset=ancient("results/datasets/{dataset}.h5"),
        checkpoint=ancient(CELL + "/checkpoint.pt"),
    output:
        view=kept("embeddings", CELL + "/pool/{view}.h5"),
        cost=CELL + "/cost/embed_{view}.json",
    log:
        CELL + "/log/embed_{view}.log",
    threads: config["threads"]
    resources:
        gpu=int(ON_GPU),
        mem_mb=8000,
        runtime=60,
    params:
        identity=embed_identity,
    shell:
        "python -m allround.stages.embed"
        " --dataset {input.dataset:q}"
        " --checkpoint {input.checkpoint:q}"
        " --view {output.view:q}"
        " --cost {output.cost:q}"
        " --identity {params.identity:q}"
        " --device {config[device]}"
        " --threads {threads}"
        " > {log:q} 2>&1"
