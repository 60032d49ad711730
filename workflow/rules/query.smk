"""The strategy's half of a round: query indices, label them.

The DAG is static: round k finds the files of round k-1 through its input functions; round 0 lies under start/ and is
shared by all strategies. A finished job declares no inputs (see unless_finished).
"""


def query_identity(wildcards):
    return plan.query(STUDY, cell_of(wildcards))


def query_input(wildcards):
    cell = cell_of(wildcards)
    needs = STUDY.strategies[STUDY.arms[cell.arm]]["needs"]
    files = {
        "dataset": ancient(f"results/datasets/{cell.dataset}.h5"),
        "labels": in_cell(cell.home, "labels.csv"),
        "views": [ancient(in_cell(cell.home, f"pool/{view}.h5")) for view in needs],
    }
    return unless_finished(
        [in_cell(cell, "query.csv")], query_identity(wildcards), files
    )


def label_identity(wildcards):
    return plan.labels(STUDY, cell_of(wildcards))


def label_input(wildcards):
    cell = cell_of(wildcards)
    files = {
        "dataset": ancient(f"results/datasets/{cell.dataset}.h5"),
        "labels": in_cell(cell.previous.home, "labels.csv"),
        "query": in_cell(cell.previous, "query.csv"),
    }
    return unless_finished(
        [in_cell(cell, "labels.csv")], label_identity(wildcards), files
    )


rule query:
    """query.csv: rank,index,score of the examples that the strategy wants labelled next."""
    input:
        unpack(query_input),
    output:
        query=CELL + "/query.csv",
        cost=CELL + "/cost/query.json",
    log:
        CELL + "/log/query.log",
    wildcard_constraints:
        arm="[^/]+@[0-9]+",
    threads: config["threads"]
    resources:
        gpu=int(ON_GPU),
        mem_mb=8000,
        runtime=60,
    params:
        identity=query_identity,
    shell:
        "python -m allround.stages.query"
        " --dataset {input.dataset:q}"
        " --labels {input.labels:q}"
        " --views {input.views:q}"
        " --query {output.query:q}"
        " --cost {output.cost:q}"
        " --identity {params.identity:q}"
        " --device {config[device]}"
        " --threads {threads}"
        " > {log:q} 2>&1"


rule label:
    """labels.csv of round k: that of round k-1 plus the oracle's answers to its query."""
    input:
        unpack(label_input),
    output:
        labels=CELL + "/labels.csv",
        cost=CELL + "/cost/label.json",
    log:
        CELL + "/log/label.log",
    wildcard_constraints:
        arm="[^/]+@[0-9]+",
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        identity=label_identity,
    shell:
        "python -m allround.stages.label"
        " --dataset {input.dataset:q}"
        " --previous {input.labels:q}"
        " --query {input.query:q}"
        " --labels {output.labels:q}"
        " --cost {output.cost:q}"
        " --identity {params.identity:q}"
        " > {log:q} 2>&1"
