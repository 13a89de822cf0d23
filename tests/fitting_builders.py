from lore.fitting.fit import FitConfig

FIXED = FitConfig(rank=3, strength=1e-3, weight_strength=0.01)
