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
        gpu=GPU,
    params:
        identity=train_identity,
        device=device,
    shell:
        "{STAGE} train"
        " --dataset {input.dataset}"
        " --labels {input.labels}"
        " --previous {input.previous}"
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


rule embed:
    """pool/<view>.h5: one row per training example, from the round's checkpoint."""
    input:
        unpack(embed_input),
    output:
        view=kept("embeddings", f"{CELL}/pool/{{view}}.h5"),
        cost=f"{CELL}/cost/embed_{{view}}.json",
    log:
        f"{CELL}/log/embed_{{view}}.log",
    conda:
        "../envs/allround.yaml"
    threads: config["threads"]
    resources:
        gpu=GPU,
    params:
        identity=embed_identity,
        device=device,
    shell:
        "{STAGE} embed"
        " --dataset {input.dataset}"
        " --checkpoint {input.checkpoint}"
        " --members {input.members}"
        " --view {output.view}"
        " --cost {output.cost}"
        " --identity {params.identity:q}"
        " --device {params.device}"
        " --threads {threads}"
        " > {log} 2>&1"
