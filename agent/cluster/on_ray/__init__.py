"""Placement on a Ray cluster: joining or starting one, actors that hold a piece each, and its errors in plain words."""
