"""Cameras, recorders and upper platforms made of the same sip and media packages, for trials and tests."""
