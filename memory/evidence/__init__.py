"""What is known of versions from earlier gates, for the planning of the next one."""
