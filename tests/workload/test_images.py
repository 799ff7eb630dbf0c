"""Images are PNG files that any library reads, all different, and the same for the same seed."""

import base64
import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.scenario.workload import ChoiceItem, Images, WeightedChoice
from harness.simulator.request_bodies import image_tokens
from harness.workload.images import image_source, png

SIZES = ChoiceItem(choice=WeightedChoice(values=(56, 140)))


def opened(url):
    """The picture of a data URL."""
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_png_holds_its_pixels(width, height, seed):
    """Another library reads the same pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels))).convert("RGB")), pixels)


def test_images_have_the_size_that_is_asked_for():
    """Numbers and distributions, as many as are wanted; a picture of usual size takes tens of kilobytes."""
    source = image_source(Images(count=2, size=(640, 480)), 1)
    urls = source.urls(0)
    drawn = image_source(Images(size=(SIZES, 28)), 1)

    assert [opened(url).size for url in urls] == [(640, 480)] * 2
    assert all(5_000 < len(url) < 100_000 for url in urls)
    assert {opened(drawn.urls(session)[0]).size for session in range(20)} == {(56, 28), (140, 28)}


def test_images_are_all_different_and_always_the_same():
    """No two of a run are equal, so that an engine keeps none of them; another seed has others."""
    source = image_source(Images(count=2, size=(64, 64)), 1)
    urls = [url for session in range(50) for url in source.urls(session)]

    assert len(set(urls)) == 100
    assert source.urls(7) == image_source(Images(count=2, size=(64, 64)), 1).urls(7)
    assert source.urls(7) != image_source(Images(count=2, size=(64, 64)), 2).urls(7)


def test_a_share_of_them_comes_again():
    """Half of them are of a pool of four; the others are new."""
    source = image_source(Images(size=(64, 64), share=0.5, pool=4), 1)
    urls = [source.urls(session)[0] for session in range(400)]
    again = [url for url in urls if urls.count(url) > 1]

    assert len(set(again)) == 4
    assert 160 < len(again) < 240


def test_the_simulator_reads_their_size():
    """One token for 28 x 28 pixels, as Qwen2-VL has it; what is no PNG counts as one of 640 x 480."""
    source = image_source(Images(size=(640, 480)), 1)

    assert image_tokens(source.urls(0)[0]) == 23 * 18
    assert image_tokens("data:image/jpeg;base64,/9j/") == image_tokens("https://a/b.png") == 23 * 18
