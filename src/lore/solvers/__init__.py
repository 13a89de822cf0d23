"""Mathematics: tensors in, tensors out, nothing else."""
