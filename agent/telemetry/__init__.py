"""What a home tells the tools of operators: metrics, readiness, logs as JSON, traces, and notifications."""
