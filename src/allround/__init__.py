"""allround: deep active learning on image classification, as a DAG of cached files."""

__version__ = "0.1.0"
