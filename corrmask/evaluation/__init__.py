"""Scores of frozen embeddings, beside baselines on the same splits. Needs the extra ``corrmask[eval]`` when called."""

from corrmask.evaluation.annotation import evaluate_annotation
from corrmask.evaluation.annotation_report import AnnotationReport
from corrmask.evaluation.gene_labels import GenesReport, evaluate_genes

__all__ = ["AnnotationReport", "GenesReport", "evaluate_annotation", "evaluate_genes"]
