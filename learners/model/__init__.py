"""The base model in this process: its linear layers carry adapters beside their weights, and it computes token trees."""
