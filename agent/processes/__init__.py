"""The child processes: actor, job and vLLM server."""
