"""The journal: a process on the head that hands out tasks and versions to players elsewhere, and writes down what they play."""
