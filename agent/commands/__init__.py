"""The commands. Modules here import only what is quick to import; what a command needs is imported when it runs."""
