"""`python -m perdure`: the command line of this interpreter, whatever is on the PATH. Processes of our own are started so."""

from perdure.agent.cli import main

if __name__ == "__main__":
    main()
