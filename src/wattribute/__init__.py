"""Wattribute: what each training run, model version and inference costs, in joules, GPU time and money."""

__version__ = "0.1.0"
