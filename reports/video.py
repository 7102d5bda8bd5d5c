"""Evaluation episodes as MP4 or GIF, with the acting component of DMPO as a bar under them."""

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import d4rl_tasks
from d4rl_tasks.files import atomic_path
from d4rl_tasks.rendering import choose_renderer
from reports.errors import ReportError
from reports.models import Episode, Model, play, read_model
from reports.paths import output_path
from reports.style import component_colours

SIZE = 480  # pixels, width and height of the picture
FOOT = 96  # pixels below it; MP4's height must be a multiple of 16
FRAMES_PER_SECOND = {".mp4": 30, ".gif": 15}
MOST_SWATCHES = 30
PAPER, INK, EMPTY = "#ffffff", "#1a1a1a", "#dddddd"
GOAL = 0.0, 0.62, 0.45, 1.0  # red, green, blue, opacity; its radius is 0.5 m, as the task has it


def write_video(path: Path, out: Path | None, episodes: int, seed: int | None) -> None:
    """Play episodes of a model and write them to one file.

    Args:
        out: a file or a folder; None writes beside the model.
        seed: of the run whose evaluation is played; None takes the model's.

    Raises:
        UserError: the model or `out` cannot be used, or nothing draws on this machine.
    """
    model = read_model(path)
    out = output_path(out, path.with_suffix(".mp4" if has_ffmpeg() else ".gif"))
    check_kind(out)
    choose_renderer()
    played = play(model, episodes, model.seed if seed is None else seed)
    with atomic_path(out) as temporary:
        _write_frames(model, played, temporary, out.suffix.lower())
    for number, episode in enumerate(played, 1):
        score = score_of(model, episode.returns[-1])
        print(f"episode {number}: {len(episode.returns)} steps, score x 100 {score:z.1f}")
    print(f"written to {out}")


def score_of(model: Model, episode_return: float) -> float:
    """The normalised score x 100 of a return."""
    return 100 * float(d4rl_tasks.normalized_score(model.env, episode_return))


def has_ffmpeg() -> bool:
    """Whether MP4 can be written."""
    return importlib.util.find_spec("imageio_ffmpeg") is not None


def check_kind(out: Path) -> None:
    """Refuse names of other files than MP4 and GIF, and MP4 where it cannot be written."""
    if out.suffix.lower() not in FRAMES_PER_SECOND:
        raise ReportError(f"{out}: the name must end in .mp4 or .gif")
    if out.suffix.lower() == ".mp4" and not has_ffmpeg():
        raise ReportError(
            f"{out}: MP4 needs imageio-ffmpeg: pip install -r requirements-report.txt, or write a "
            ".gif"
        )


def _write_frames(model: Model, episodes: list[Episode], path: Path, kind: str) -> None:
    environment = d4rl_tasks.make(model.env, render_mode="rgb_array", width=SIZE, height=SIZE)
    stride = max(1, round(environment.unwrapped.metadata["render_fps"] / FRAMES_PER_SECOND[kind]))
    rate = environment.unwrapped.metadata["render_fps"] / stride
    total = sum(len(range(0, len(episode.returns), stride)) for episode in episodes)
    frames = (frame for e in episodes for frame in _frames(environment, model, e, stride))
    write = {".mp4": _write_mp4, ".gif": _write_gif}[kind]
    write(path, tqdm(frames, total=total, unit="frame", disable=None), rate)
    environment.close()


def _write_mp4(path: Path, frames: Iterable[np.ndarray], rate: float) -> None:
    import imageio_ffmpeg

    size = SIZE, SIZE + FOOT
    # The temporary name does not tell ffmpeg the format.
    writer = imageio_ffmpeg.write_frames(str(path), size, fps=rate, output_params=["-f", "mp4"])
    with contextlib.closing(writer):
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))


def _write_gif(path: Path, frames: Iterable[np.ndarray], rate: float) -> None:
    duration = 1000 / rate  # ms a frame
    with imageio.get_writer(path, mode="I", format="GIF", duration=duration, loop=0) as writer:
        for frame in frames:
            writer.append_data(frame)  # type: ignore[attr-defined]


def _frames(environment, model: Model, episode: Episode, stride: int) -> Iterator[np.ndarray]:
    from mujoco import mjtGeom  # not above: d4rl_tasks must be the first to import it

    sphere = mjtGeom.mjGEOM_SPHERE
    environment.reset(seed=0)
    environment.render()  # makes the viewer
    viewer = environment.unwrapped.mujoco_renderer.viewer
    for step in range(0, len(episode.returns), stride):
        environment.unwrapped.set_state(episode.qpos[step], episode.qvel[step])
        if episode.goal is not None and not environment.unwrapped.robot.shows_goal:
            viewer.add_marker(pos=[*episode.goal, 0.5], type=sphere, size=[0.5] * 3, rgba=GOAL)
        yield compose(environment.render(), model, episode, step)


def compose(picture: np.ndarray, model: Model, episode: Episode, step: int) -> np.ndarray:
    """Put a foot under a picture: a bar with one colour a component, the policy, task and score.

    Args:
        picture: (H, W, 3) uint8.
        step: the bar is coloured up to here; without components it is plain.

    Returns:
        (H + 96, W, 3) uint8.
    """
    height, width, _ = picture.shape
    components = model.components
    frame = Image.new("RGB", (width, height + FOOT), PAPER)
    frame.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(frame)
    frame.paste(_bar(episode, step, components, width), (0, height + 6))
    font, middle, bottom = ImageFont.load_default(14), height + 46, height + 78
    total = episode.returns[step]
    draw.text((8, bottom), f"{model.policy_name}   {model.env}", INK, font, anchor="lm")
    draw.text((width - 8, middle), f"step {step}   return {total:.0f}", INK, font, anchor="rm")
    score = f"score so far {score_of(model, total):z.1f}"
    draw.text((width - 8, bottom), score, INK, font, anchor="rm")
    if components:
        _draw_swatches(draw, (8, middle), components, episode.components[step])
    return np.asarray(frame)


def _draw_swatches(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], components: int, acting: int
) -> None:
    x, y = at
    if components > MOST_SWATCHES:
        draw.text(at, f"component {acting}", INK, ImageFont.load_default(14), anchor="lm")
        return
    pitch = min(26, 300 // components)
    for index, colour in enumerate(component_colours(components)):
        _swatch(draw, (x + index * pitch, y), pitch - 6, index, colour, index == acting)


def _bar(episode: Episode, step: int, components: int, width: int) -> Image.Image:
    colours = component_colours(components) if components else [INK]
    acting = episode.components if components else np.zeros(len(episode.returns), int)
    steps = np.arange(width) * len(acting) // width
    row = [colours[acting[s]] if s <= step else EMPTY for s in steps]
    bar = Image.new("RGB", (width, 1))
    for x, colour in enumerate(row):
        bar.putpixel((x, 0), tuple(bytes.fromhex(colour[1:])))
    return bar.resize((width, 20))


def _swatch(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    width: int,
    index: int,
    colour: str,
    is_acting: bool,
) -> None:
    """A component's number in its colour, if it fits; the acting one is framed."""
    x, y = at
    draw.rectangle((x, y - 10, x + width, y + 10), colour)
    if is_acting:
        draw.rectangle((x - 3, y - 13, x + width + 3, y + 13), outline=INK, width=2)
    if width >= 16:
        red, green, blue = bytes.fromhex(colour[1:])
        ink = PAPER if 0.3 * red + 0.6 * green + 0.1 * blue < 130 else INK
        font = ImageFont.load_default(13)
        draw.text((x + width / 2, y), str(index), ink, font, anchor="mm")
