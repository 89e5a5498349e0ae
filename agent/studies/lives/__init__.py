"""Lives of homes, simulated: the real planner, gate, and election of anchors on a model of skills."""
