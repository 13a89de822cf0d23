"""The experiments of the paper (Bose et al. 2025): settings, splits and data."""
