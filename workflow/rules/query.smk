"""The strategy's half of a round: query indices, label them.

The DAG is static: round k finds the files of round k-1 through its input functions; round 0 lies under
start/ and is shared by all strategies.
"""


rule query:
    """query.csv: rank,index,score of the examples that the strategy wants labelled next."""
    input:
        unpack(query_input),
    output:
        query=f"{CELL}/query.csv",
        cost=f"{CELL}/cost/query.json",
    log:
        f"{CELL}/log/query.log",
    wildcard_constraints:
        arm="[^/]+@[0-9]+",
    conda:
        "../envs/allround.yaml"
    threads: config["threads"]
    resources:
        gpu=GPU,
    params:
        identity=query_identity,
        device=device,
    shell:
        "{STAGE} query"
        " --dataset {input.dataset}"
        " --labels {input.labels}"
        " --views {input.views}"
        " --checkpoint {input.checkpoint}"
        " --query {output.query}"
        " --cost {output.cost}"
        " --identity {params.identity:q}"
        " --device {params.device}"
        " --threads {threads}"
        " > {log} 2>&1"


rule label:
    """labels.csv of round k: that of round k-1 plus the oracle's answers to its query."""
    input:
        unpack(label_input),
    output:
        labels=f"{CELL}/labels.csv",
        cost=f"{CELL}/cost/label.json",
    log:
        f"{CELL}/log/label.log",
    wildcard_constraints:
        arm="[^/]+@[0-9]+",
    conda:
        "../envs/allround.yaml"
    params:
        identity=labels_identity,
    shell:
        "{STAGE} label"
        " --dataset {input.dataset}"
        " --previous {input.labels}"
        " --query {input.query}"
        " --labels {output.labels}"
        " --cost {output.cost}"
        " --identity {params.identity:q}"
        " > {log} 2>&1"
