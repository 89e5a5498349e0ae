"""The benchmarks of `perdure bench`, one file each."""
