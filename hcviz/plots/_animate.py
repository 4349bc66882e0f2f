"""Animate any figure over steps: GIF, MP4, or a web page with a player."""

import contextlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import animation
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from hcviz.errors import HcvizError
from hcviz.io.files import fresh_file
from hcviz.plots._saving import _figure


def animate(
    draw: Callable[[int], Any],
    steps: Iterable[int],
    out: str | Path,
    *,
    fps: float = 3.0,
    dpi: int = 110,
) -> Path:
    """Write an animation: one frame per step, each drawn by one call.

    The frames of :func:`blocks`, :func:`antisymmetric` and :func:`spectrum` keep one scale if they
    are given all steps and told by ``steps=`` which to show:
    ``animate(lambda step: blocks(grids, steps=[step]), grids, "blocks.gif")``,
    ``animate(lambda step: spectrum(frame, steps=(0, step)), run.steps, "spectrum.mp4")``.

    Args:
        draw: Step -> axes or a figure; the figure is closed when its frame is taken.
        steps: In the order in which they are shown.
        out: Path of a ``.gif``, a ``.mp4`` (needs ffmpeg) or a ``.html`` that holds its frames.
        fps: Frames a second.
        dpi: Pixels an inch.

    Returns:
        The path.

    Raises:
        HcvizError: If the ending is another, ffmpeg is missing, there is no step, the frames differ
            in size, or the place cannot be written.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp()) / "line.gif"
        >>> frames = {step: np.full((2, 2), step) for step in (1, 2)}
        >>> animate(lambda step: plt.figimage(frames[step]).figure, frames, out).name
        'line.gif'
    """
    out = Path(out)
    if out.suffix not in (".gif", ".mp4", ".html"):
        raise HcvizError(
            f"Cannot animate to {out}: choose a path that ends in .gif, .mp4 or .html."
        )
    if out.suffix == ".mp4" and _ffmpeg() is None:
        raise HcvizError(
            f"{out} needs the program ffmpeg, which was not found. Install it or the package "
            "imageio-ffmpeg, or write a .gif or .html."
        )
    images = [_frame(draw(step), dpi) for step in steps]
    sizes = {image.shape for image in images}
    if len(sizes) != 1:
        shapes = ", ".join(str(size[1::-1]) for size in sizes) or "no step was given"
        raise HcvizError(f"An animation needs frames of one size; these are {shapes}.")
    with fresh_file(out) as scratch:
        _write(images, scratch, fps, dpi)
    return out


def _ffmpeg() -> str | None:
    """Return where ffmpeg is: the program on the path, or the one of imageio-ffmpeg."""
    found = shutil.which(mpl.rcParams["animation.ffmpeg_path"])
    if found is None:
        with contextlib.suppress(ImportError):
            from imageio_ffmpeg import get_ffmpeg_exe

            found = get_ffmpeg_exe()
    return found


def _movie(images: list[np.ndarray], fps: float, dpi: int) -> animation.FuncAnimation:
    """Return an animation that shows one picture after the other."""
    tall, wide = images[0].shape[:2]
    figure = Figure(figsize=(wide / dpi, tall / dpi), dpi=dpi)
    FigureCanvasAgg(figure)
    shown = figure.figimage(images[0])
    return animation.FuncAnimation(
        figure, lambda i: shown.set_array(images[i]), frames=len(images), interval=1000 / fps,
        init_func=lambda: None,
    )  # fmt: skip


def _write(images: list[np.ndarray], path: Path, fps: float, dpi: int) -> None:
    """Write an animation of pictures by the ending of its path."""
    if path.suffix == ".html":
        with mpl.rc_context({"animation.embed_limit": 200}):
            page = _movie(images, fps, dpi).to_jshtml(fps=fps, default_mode="loop")
        path.write_text(page, encoding="utf-8")
    elif path.suffix == ".mp4":
        with mpl.rc_context({"animation.ffmpeg_path": _ffmpeg()}):
            _movie(images, fps, dpi).save(path, writer=animation.FFMpegWriter(fps=fps), dpi=dpi)
    else:  # in the colours of all frames together, so that none changes its meaning
        palette = Image.fromarray(np.concatenate(images)).quantize(256, kmeans=1)
        options = {"palette": palette, "dither": Image.Dither.NONE}
        first, *others = (Image.fromarray(image).quantize(**options) for image in images)
        first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)


def _frame(drawn: Any, dpi: int) -> np.ndarray:
    """Return the pixels of a figure, of even width and height as video needs them, and close it."""
    figure = _figure(drawn)
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
