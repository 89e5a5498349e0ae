"""Episodes as documents: how they leave a store and how trajectories of other pipelines come in."""
