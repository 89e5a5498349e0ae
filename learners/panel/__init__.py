"""The capability panel: skills outside of every stream, scored exactly. A loss there refuses a candidate before anything is played."""
