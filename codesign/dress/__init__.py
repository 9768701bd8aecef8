"""DRESS (Qu et al., CVPR-ECV 2022): nested row-sparse subnets of one set of weights.

rows.py     how a kernel is read as rows
trees.py    kernels in any Flax model's parameters, by name
budgets.py  how many weights each layer keeps in a row
masks.py    which ones: the masks of all subnets from one sort
packed.py   the family as one file, read without JAX
"""
