"""What benchmarks/growth calls steeper than linear: neither noise nor what is explained."""

import sys

from command_line import PROJECT

sys.path.insert(0, str(PROJECT))

from benchmarks.growth.__main__ import EXPLAINED, SAME_WORK, Curve, Point, noise_of
from benchmarks.growth.axes import AXES

SIZES = (10_000, 100_000, 300_000)


def curve(*seconds: float, name: str = "encode") -> Curve:
    return Curve(name, [Point(size, each, 0.5) for size, each in zip(SIZES, seconds, strict=True)])


def test_a_slope_within_what_a_command_is_off_by_is_noise_and_said_to_be() -> None:
    measured = curve(5.8, 6.9, 9.8)
    slope = measured.slope("seconds")
    assert slope is not None and 1.1 < slope < 1.11
    assert list(measured.steep("images", {"seconds": 0.0, "gib": 0.0}).values()) == [True], "no noise was measured"
    ((words, is_open),) = measured.steep("images", {"seconds": 0.1, "gib": 0.0}).items()
    assert not is_open and words.startswith("images, encode, seconds 1.10: noise,") and words.endswith("may be 1.01")


def test_no_noise_hides_what_grows_as_the_square() -> None:
    square = curve(6.0, 16.0, 96.0)
    assert list(square.steep("images", {"seconds": 0.3, "gib": 0.0}).values()) == [True]
    assert curve(6.0, 16.0, 36.0).steep("images", {"seconds": 0.3, "gib": 0.0}) == {}


def test_noise_is_the_spread_of_the_command_that_never_looks_at_what_grows() -> None:
    axis, name = SAME_WORK
    (components,) = [known for known in AXES if known.name == axis]
    words = {tuple(word for word in components.commands[name](size) if "components" not in word) for size in (10, 300)}
    assert len(words) == 1 and "stage=encode" in words.pop()
    found = {axis: [curve(5.6, 5.75, 5.7), curve(6.0, 9.0, 30.0, name="prior")], "images": [curve(5.8, 6.9, 9.8)]}
    noise = noise_of(found)
    assert noise["gib"] == 0 and abs(noise["seconds"] - 0.15) < 1e-9
    assert noise_of({"images": found["images"]}) == {"seconds": 0.0, "gib": 0.0}
    assert all(known in {axis.name for axis in AXES} for known, _, _ in EXPLAINED)
