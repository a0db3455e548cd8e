"""corrmask: joint masking of correlated genes for single-cell foundation models.

Importing it takes torch, numpy, scipy and anndata alone (anndata when first needed); names are loaded as they are used.
"""
