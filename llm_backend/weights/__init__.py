"""Weights: what is here (`store`), and how the rest gets here (`hub`)."""
