"""A sheet of images with a caption under each: to see whether they are upright, whole, and called what they are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from expost.evaluation.figures.images import FONT_SIZE, INK, MUTED, PAPER, save_pixels, tile

CAPTION_PIXELS, LETTER_PIXELS, GAP_PIXELS, MARGIN_PIXELS, HEAD_PIXELS = 20, 8, 10, 16, 36
MOST_LETTERS = 12
LARGEST_PIXELS = 160
"""A side of an image on the sheet; larger ones are thinned out."""


def image_sheet(images: Tensor, captions: Sequence[str], title: str, path: Path, columns: int = 10) -> None:
    """Images [N, 1 or 3, H, W] in [0, 1], row by row, each above its caption, as a PNG file.

    Raises:
        ValueError: there is no image, there are as many captions as not, or the channels are neither 1 nor 3.
    """
    if len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    step = -(-max(images.shape[-2:]) // LARGEST_PIXELS)
    tiles = [tile(image[None, :, ::step, ::step], 1) for image in images]
    height, width = tiles[0].shape[:2]
    cell_width = max(width, LETTER_PIXELS * max(len(_short(caption)) for caption in captions)) + GAP_PIXELS
    cell_height = height + CAPTION_PIXELS + GAP_PIXELS
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet_width = max(columns * cell_width + 2 * MARGIN_PIXELS, LETTER_PIXELS * len(title) + 2 * MARGIN_PIXELS)
    sheet_height = HEAD_PIXELS + rows * cell_height + MARGIN_PIXELS
    figure = Figure(figsize=(sheet_width / 100, sheet_height / 100), dpi=100, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)

    def write(words: str, left: float, top: float, size: int, colour: str) -> None:
        figure.text(
            left / sheet_width, 1 - top / sheet_height, words, fontsize=size, color=colour, va="top", parse_math=False
        )

    write(title, MARGIN_PIXELS, 8, FONT_SIZE + 1, INK)
    for i, (pixels, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = MARGIN_PIXELS + i % columns * cell_width, HEAD_PIXELS + i // columns * cell_height
        figure.figimage(pixels, xo=left, yo=sheet_height - top - height, origin="upper")
        write(_short(caption), left, top + height + 2, FONT_SIZE - 2, MUTED)
    canvas.draw()
    save_pixels(np.asarray(canvas.buffer_rgba())[..., :3], path)


def _short(caption: str) -> str:
    words = " ".join(caption.split())
    return words if len(words) <= MOST_LETTERS else f"{words[: MOST_LETTERS - 1]}…"
