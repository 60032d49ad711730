"""The study's tables, figures and report."""


def collect_identity(wildcards):
    return plan.collect(STUDY)


def report_identity(wildcards):
    return plan.report(STUDY)


def all_metrics(wildcards):
    return [in_cell(cell, "metrics.json") for cell in STUDY.cells()]


rule collect:
    """rounds.csv: one row per dataset, learner, strategy, seed and round; provenance.json: what made it."""
    input:
        all_metrics,
    output:
        rounds=STUDY_DIR + "/rounds.csv",
        provenance=STUDY_DIR + "/provenance.json",
    log:
        STUDY_DIR + "/log/collect.log",
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        identity=collect_identity,
    shell:
        "python -m allround.stages.collect"
        " --results results"
        " --rounds {output.rounds:q}"
        " --provenance {output.provenance:q}"
        " --identity {params.identity:q}"
        " > {log:q} 2>&1"


rule report:
    """report.html, self-contained; figures (svg, pdf) and the tables behind them."""
    input:
        rounds=STUDY_DIR + "/rounds.csv",
        provenance=STUDY_DIR + "/provenance.json",
    output:
        report=report(
            STUDY_DIR + "/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
        summary=report(
            STUDY_DIR + "/summary.csv",
            caption="../report/summary.rst",
            category="Tables",
        ),
        efficiency=report(
            STUDY_DIR + "/efficiency.csv",
            caption="../report/efficiency.rst",
            category="Tables",
        ),
        figures=directory(STUDY_DIR + "/figures"),
    log:
        STUDY_DIR + "/log/report.log",
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        identity=report_identity,
    shell:
        "python -m allround.stages.report"
        " --rounds {input.rounds:q}"
        " --provenance {input.provenance:q}"
        " --report {output.report:q}"
        " --summary {output.summary:q}"
        " --efficiency {output.efficiency:q}"
        " --figures {output.figures:q}"
        " --identity {params.identity:q}"
        " > {log:q} 2>&1"
