"""The part of `perdure bench` that asks the page and the API: how long answers take, and what an open page costs an actor."""
