"""Errands: held-out draws that a job wants played elsewhere, and who plays them."""
