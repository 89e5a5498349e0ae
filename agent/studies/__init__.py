"""Studies: many runs under stated conditions, each part kept once it is finished, and what they come to as tables and plots."""
