"""The API under `/api/v1`: what the command line tells and does, as JSON over HTTP."""
