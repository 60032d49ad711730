"""The study's tables, figures and report."""


rule collect:
    """rounds.csv: one row per dataset, learner, strategy, seed and round; provenance.json: what made it."""
    input:
        outdated_metrics,
    output:
        rounds=report(
            f"{STUDY_DIR}/rounds.csv",
            caption="../report/rounds.rst",
            category="Tables",
        ),
        provenance=f"{STUDY_DIR}/provenance.json",
    log:
        f"{STUDY_DIR}/log/collect.log",
    group:
        report_group
    conda:
        "../envs/allround.yaml"
    params:
        identity=collect_identity,
    shell:
        "python -m allround.launch collect"
        " --results results"
        " --rounds {output.rounds:q}"
        " --provenance {output.provenance:q}"
        " --identity {params.identity:q}"
        " > {log:q} 2>&1"


rule report:
    """report.html, self-contained; figures (svg, pdf) and the tables behind them."""
    input:
        rounds=f"{STUDY_DIR}/rounds.csv",
        provenance=f"{STUDY_DIR}/provenance.json",
    output:
        report=report(
            f"{STUDY_DIR}/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
        summary=report(
            f"{STUDY_DIR}/summary.csv",
            caption="../report/summary.rst",
            category="Tables",
        ),
        pairwise=report(
            f"{STUDY_DIR}/pairwise.csv",
            caption="../report/pairwise.rst",
            category="Tables",
        ),
        efficiency=report(
            f"{STUDY_DIR}/efficiency.csv",
            caption="../report/efficiency.rst",
            category="Tables",
        ),
        figures=report(
            directory(f"{STUDY_DIR}/figures"),
            patterns=["{name}.svg"],
            caption="../report/figures.rst",
            category="Figures",
        ),
    log:
        f"{STUDY_DIR}/log/report.log",
    group:
        report_group
    conda:
        "../envs/allround.yaml"
    params:
        identity=report_identity,
    shell:
        "python -m allround.launch report"
        " --rounds {input.rounds:q}"
        " --provenance {input.provenance:q}"
        " --report {output.report:q}"
        " --summary {output.summary:q}"
        " --pairwise {output.pairwise:q}"
        " --efficiency {output.efficiency:q}"
        " --figures {output.figures:q}"
        " --identity {params.identity:q}"
        " > {log:q} 2>&1"
