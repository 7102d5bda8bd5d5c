"""Calls a program's `main` as a shell would."""


def exit_code(main, argv):
    """The exit code, whether the program returns it or argparse exits."""
    try:
        return main(argv)
    except SystemExit as stop:
        return stop.code
