"""Films in the report: every frame is there, in order, and text is shown, not obeyed."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from mmrlhf_jax.evaluate.report_film import FilmStrip, films_html


def test_frames_are_shown_in_order_and_text_is_escaped():
    frames_TxHxWxC = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (10, 90, 200)])
    page = films_html([FilmStrip("<go>", "not done & over", False, frames_TxHxWxC)])
    pictures = re.findall(r"base64,([^\"]+)", page)
    levels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))[0, 0, 0] for text in pictures]
    assert levels == [10, 90, 200]
    assert re.findall(r'alt="([^"]+)"', page) == ["start", "after step 1", "after step 2"]
    assert "&lt;go&gt;" in page and "not done &amp; over" in page and "<go>" not in page
    assert 'class="pill missed"' in page
    assert 'class="pill met"' in films_html([FilmStrip("go", "done", True, frames_TxHxWxC)])


def test_other_arrays_are_refused():
    for frames in (np.zeros((2, 2, 3), np.uint8), np.zeros((1, 2, 2, 3)), np.zeros((0, 2, 2, 3), np.uint8)):
        with pytest.raises(ValueError, match="must be uint8"):
            FilmStrip("go", "done", True, frames)
