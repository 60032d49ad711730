"""The learner's half of a round: train a checkpoint, embed the pool."""


rule train:
    """checkpoint.pt, and metrics.json: accuracy, nll, ece, per-class accuracy on the test set."""
    input:
        unpack(train_input),
    output:
        checkpoint=kept("checkpoints", f"{CELL}/checkpoint.pt"),
        metrics=f"{CELL}/metrics.json",
        cost=f"{CELL}/cost/train.json",
    log:
        f"{CELL}/log/train.log",
    conda:
        "../envs/allround.yaml"
    threads: config["threads"]
    resources:
        gpu=training_gpus,
        mem_mb=train_memory,
        runtime=train_minutes,
    params:
        identity=train_identity,
        weights=given_weights,
        device=device,
    shell:
        "python -m allround.launch train"
        " --dataset {input.dataset}"
        " --labels {input.labels}"
        " --previous {input.previous}"
        " --weights {params.weights:q}"
        " --checkpoint {output.checkpoint}"
        " --metrics {output.metrics}"
        " --cost {output.cost}"
        " --identity {params.identity:q}"
        " --device {params.device}"
        " --threads {threads}"
        " > {log} 2>&1"


use rule train as train_member with:
    output:
        checkpoint=kept("checkpoints", f"{CELL}/members/{{member}}/checkpoint.pt"),
        metrics=f"{CELL}/members/{{member}}/metrics.json",
        cost=f"{CELL}/cost/train_member{{member}}.json",
    log:
        f"{CELL}/log/train_member{{member}}.log",


rule train_again:
    """checkpoint.pt of a finished training, wanted once more: its metrics.json and costs stay as they are.

    Stands in for `train` where these are there (train_again_input), so that a failure or a kill loses no result.
    """
    input:
        unpack(train_again_input),
    output:
        checkpoint=kept("checkpoints", f"{CELL}/checkpoint.pt"),
    log:
        f"{CELL}/log/train_again.log",
    wildcard_constraints:
        round=finished_rounds(),
    conda:
        "../envs/allround.yaml"
    threads: config["threads"]
    resources:
        gpu=training_gpus,
        mem_mb=train_memory,
        runtime=train_minutes,
    params:
        identity=train_identity,
        weights=given_weights,
        device=device,
    shell:
        "python -m allround.launch train"
        " --dataset {input.dataset}"
        " --labels {input.labels}"
        " --previous {input.previous}"
        " --weights {params.weights:q}"
        " --checkpoint {output.checkpoint}"
        " --identity {params.identity:q}"
        " --device {params.device}"
        " --threads {threads}"
        " > {log} 2>&1"


ruleorder: train_again > train


rule embed:
    """pool/<view>.h5: one row per training example, from the round's checkpoint."""
    input:
        unpack(embed_input),
    output:
        view=kept("embeddings", f"{CELL}/pool/{{view}}.h5"),
        cost=f"{CELL}/cost/embed_{{view}}.json",
    log:
        f"{CELL}/log/embed_{{view}}.log",
    group:
        round_group
    conda:
        "../envs/allround.yaml"
    threads: config["threads"]
    resources:
        gpu=training_gpus,
        mem_mb=embed_memory,
        runtime=embed_minutes,
    params:
        identity=embed_identity,
        device=device,
    shell:
        "python -m allround.launch embed"
        " --dataset {input.dataset}"
        " --checkpoint {input.checkpoint}"
        " --members {input.members}"
        " --view {output.view}"
        " --cost {output.cost}"
        " --identity {params.identity:q}"
        " --device {params.device}"
        " --threads {threads}"
        " > {log} 2>&1"
