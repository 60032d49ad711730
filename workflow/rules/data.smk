"""Sources of images -> one dataset.h5 each -> the seed set of every seed."""


def dataset_identity(wildcards):
    return plan.dataset(STUDY, wildcards.dataset)


def seed_set_identity(wildcards):
    return plan.labels(STUDY, cell_of(wildcards))


def seed_set_input(wildcards):
    return unless_finished(
        [in_cell(cell_of(wildcards), "labels.csv")],
        seed_set_identity(wildcards),
        {"dataset": ancient(f"results/datasets/{wildcards.dataset}.h5")},
    )


rule dataset:
    """dataset.h5: images uint8 [N,H,W,C], labels and origin [N], train and test; classes, mean, std."""
    output:
        dataset="results/datasets/{dataset}.h5",
    log:
        "results/datasets/log/{dataset}.log",
    threads: config["threads"]
    resources:
        mem_mb=round(config["memory_gb"] * 1000) + 1000,
        runtime=60,
    params:
        identity=dataset_identity,
    shell:
        "python -m allround.stages.dataset"
        " --data {config[data]:q}"
        " --dataset {output.dataset:q}"
        " --memory-gb {config[memory_gb]}"
        " --identity {params.identity:q}"
        " --threads {threads}"
        " > {log:q} 2>&1"


rule seed_set:
    """labels.csv of round 0: index,label,round of the seed set, the same for every strategy."""
    input:
        unpack(seed_set_input),
    output:
        labels=START + "/labels.csv",
        cost=START + "/cost/seed_set.json",
    log:
        START + "/log/seed_set.log",
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        identity=seed_set_identity,
    shell:
        "python -m allround.stages.seed_set"
        " --dataset {input.dataset:q}"
        " --labels {output.labels:q}"
        " --labels-needed {STUDY.labels_needed}"
        " --cost {output.cost:q}"
        " --identity {params.identity:q}"
        " > {log:q} 2>&1"
