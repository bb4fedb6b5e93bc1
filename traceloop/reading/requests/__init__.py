"""Requests: how long each took, and where its time went."""
