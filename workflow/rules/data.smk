"""Sources of images -> one dataset.h5 each -> the seed set of every seed."""


rule dataset:
    """dataset.h5: images uint8 [N,H,W,C], labels and origin [N], train and test; classes, mean, std."""
    output:
        dataset="results/datasets/{dataset}.h5",
    log:
        "results/datasets/log/{dataset}.log",
    conda:
        "../envs/allround.yaml"
    resources:
        mem_mb=dataset_memory,
        runtime=dataset_minutes,
    params:
        identity=dataset_identity,
        data=data_folder,
        memory_gb=memory_gb,
    shell:
        "python -m allround.launch dataset"
        " --data {params.data:q}"
        " --dataset {output.dataset}"
        " --memory-gb {params.memory_gb}"
        " --identity {params.identity:q}"
        " > {log} 2>&1"


rule seed_set:
    """labels.csv of round 0: index,label,round of the seed set, the same for every strategy."""
    input:
        unpack(seed_set_input),
    output:
        labels=f"{START}/labels.csv",
        cost=f"{START}/cost/seed_set.json",
    log:
        f"{START}/log/seed_set.log",
    conda:
        "../envs/allround.yaml"
    params:
        identity=labels_identity,
        labels_needed=labels_needed,
    shell:
        "python -m allround.launch seed_set"
        " --dataset {input.dataset}"
        " --labels {output.labels}"
        " --labels-needed {params.labels_needed}"
        " --cost {output.cost}"
        " --identity {params.identity:q}"
        " > {log} 2>&1"
