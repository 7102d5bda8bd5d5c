"""Look at what was trained.

python report.py [results/] [--html]              tables, learning curves, statistics
python report.py video --model models/<run>.pt    episodes as MP4 or GIF
python report.py latent --model models/<run>.pt   which component of DMPO acts where
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from reports.errors import ReportError

OPTIONAL = {"matplotlib", "scipy", "PIL"}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> None:
        self.exit(2, f"error: {message} (--help lists the options)\n")


def whole_number(text: str, low: int) -> int:
    """What the next two types for argparse share."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < low:
        raise argparse.ArgumentTypeError(f"{text} must be at least {low}")
    return value


def positive(text: str) -> int:
    """A type for argparse: a whole number of at least 1."""
    return whole_number(text, 1)


def seed(text: str) -> int:
    """A type for argparse: a whole number of at least 0."""
    return whole_number(text, 0)


def make_parser(command: str) -> Parser:
    """The command line of "report", "video" or "latent"."""
    parser = Parser(
        prog="report.py" if command == "report" else f"report.py {command}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if command == "report":
        parser.add_argument(
            "results", nargs="?", type=Path, default=Path("results"), help="(default: %(default)s)"
        )
        parser.add_argument(
            "--out", type=Path, help="folder to write into (default: report/ in the results)"
        )
        parser.add_argument(
            "--html", action="store_true", help="write index.html too: one page with all of it"
        )
        return parser
    parser.add_argument("--model", type=Path, required=True, help="models/<run>.pt")
    parser.add_argument(
        "--seed",
        type=seed,
        default=1,
        help="starts the episodes that the run of this seed was evaluated on "
        "(default: %(default)s)",
    )
    is_video = command == "video"
    parser.add_argument(
        "--episodes", type=positive, default=1 if is_video else 10, help="(default: %(default)s)"
    )
    written = "the model's name with .mp4, or .gif without imageio-ffmpeg"
    if not is_video:
        written = "the model's name with _latent, .png and .svg"
    parser.add_argument("--out", type=Path, help=f"file to write (default: {written})")
    return parser


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv.pop(0) if argv and argv[0] in ("video", "latent") else "report"
    arguments = make_parser(command).parse_args(argv)
    try:
        COMMANDS[command](arguments)
        print(end="", flush=True)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in OPTIONAL:
            raise
        print(
            f"error: {package} is missing: pip install -r requirements-report.txt",
            file=sys.stderr,
        )
        return 2
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who reads the output, like head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
