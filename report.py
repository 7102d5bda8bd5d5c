"""Look at trained runs and models.

python report.py [results/] [--html]                       tables, learning curves, statistics
python report.py video --model models/<run>.safetensors    episodes as MP4 or GIF
python report.py latent --model models/<run>.safetensors   which component of DMPO acts where
"""

from experiment.start_up import end_guard, guard_imports

if __name__ == "__main__":
    guard_imports()

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from d4rl_tasks.command_line import Parser, number, run_program
from reports.errors import ReportError

OPTIONAL = {"matplotlib", "scipy", "PIL", "jsonschema"}


def make_parser(command: str) -> Parser:
    """The command line of "report", "video" or "latent"."""
    parser = Parser(
        prog="report.py" if command == "report" else f"report.py {command}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if command == "report":
        _add_report_options(parser)
    else:
        _add_model_options(parser, command)
    return parser


def _add_report_options(parser: Parser) -> None:
    parser.add_argument(
        "results", nargs="?", type=Path, default=Path("results"), help="(default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write into (default: report/ in the results)"
    )
    parser.add_argument(
        "--html", action="store_true", help="write index.html too: one page with all of it"
    )


def _add_model_options(parser: Parser, command: str) -> None:
    episodes, written = {
        "video": (1, ".mp4, or .gif without imageio-ffmpeg"),
        "latent": (10, "_latent, .png and .svg"),
    }[command]
    parser.add_argument("--model", type=Path, required=True, help="models/<run>.safetensors")
    parser.add_argument(
        "--seed",
        type=number(int, 0, 2**31),
        help="plays the episodes that the run of this seed was evaluated on (default: the model's)",
    )
    parser.add_argument(
        "--episodes", type=number(int, 1, 1000), default=episodes, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, help=f"file or folder (default: the model's name with {written})"
    )


def report(arguments: argparse.Namespace) -> None:
    """Print and write the tables, draw the curves."""
    from reports.whole import write_report

    write_report(arguments.results, arguments.out or arguments.results / "report", arguments.html)


def video(arguments: argparse.Namespace) -> None:
    """Render episodes."""
    from reports.video import write_video

    write_video(arguments.model, arguments.out, arguments.episodes, arguments.seed)


def latent(arguments: argparse.Namespace) -> None:
    """Draw which component acts where."""
    from reports.latent import write_latent

    write_latent(arguments.model, arguments.out, arguments.episodes, arguments.seed)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "report": report,
    "video": video,
    "latent": latent,
}


def run_command(command: str, arguments: argparse.Namespace) -> None:
    """Run one of the commands.

    Raises:
        UserError: something that the user can fix, such as a missing package.
    """
    try:
        COMMANDS[command](arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in OPTIONAL:
            raise
        raise ReportError(
            f"{package} is missing: pip install -r requirements-report.txt"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    end_guard()
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words and words[0] in ("video", "latent") else "report"
    arguments = make_parser(command).parse_args(words)
    return run_program(lambda: run_command(command, arguments))


if __name__ == "__main__":
    sys.exit(main())
