"""The theme: nothing leaks, and every arm can be told in grey and by colour-blind eyes."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from hcviz.errors import HcvizError
from hcviz.plots import theme

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
EYES = {
    "normal": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def lab(color, eye):
    """CIE L*a*b* of a colour as an eye sees it."""
    rgb = np.asarray(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.119192, 0.9503041],
    ]
    xyz = np.asarray(to_xyz) @ np.clip(np.asarray(EYES[eye]) @ linear, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_lightness_is_that_of_cie():
    assert theme.lightness("black") == 0
    assert theme.lightness("white") == pytest.approx(100, abs=0.01)
    assert theme.lightness("#777777") == pytest.approx(lab("#777777", "normal")[0], abs=0.05)


def test_arms_differ_in_grey():
    grey = sorted(theme.lightness(look.color) for look in theme.ARMS.values())
    assert min(np.diff(grey)) > 10  # steps of L* that survive a laser printer
    assert grey[-1] < 78  # still seen on white paper


@pytest.mark.parametrize("eye", EYES)
def test_arms_differ_to_every_eye(eye):
    colors = [look.color for look in theme.ARMS.values()]
    apart = [
        np.linalg.norm(lab(a, eye) - lab(b, eye)) for a, b in itertools.combinations(colors, 2)
    ]
    assert min(apart) > 25


def test_arms_differ_without_any_colour():
    looks = theme.ARMS.values()
    assert len({look.marker for look in looks}) == len(looks)
    assert len({(look.linestyle, look.marker) for look in looks}) == len(looks)


def test_an_arm_keeps_its_look_whatever_else_is_drawn():
    alone = theme.arms(["dropout 0.1"])["dropout 0.1"]
    among = theme.arms(["something", "source", "dropout-0.1", "Noisy_10_dB"])
    assert among["dropout-0.1"] == alone
    assert among["Noisy_10_dB"] == theme.ARMS["noisy 10 dB"]


def test_other_names_go_round_a_long_cycle_that_avoids_the_arms():
    looks = theme.arms([f"run {i}" for i in range(140)])
    assert len(set(looks.values())) == 140
    assert not {look.color for look in looks.values()} & {
        look.color for look in theme.ARMS.values()
    }
    assert not {look.marker for look in looks.values()} & {
        look.marker for look in theme.ARMS.values()
    }


def test_arm_order_puts_known_arms_first_and_keeps_the_rest():
    assert theme.arm_order(["z", "random init", "a", "symmetric", "z"]) == [
        "symmetric",
        "random init",
        "z",
        "a",
    ]


def test_dictionaries_are_plain_settings_that_leave_nothing_behind():
    before = dict(mpl.rcParams)
    with theme.style(), theme.palette(), theme.context("talk"):
        assert mpl.rcParams["font.size"] == 14
        assert not mpl.rcParams["axes.spines.top"]
    assert dict(mpl.rcParams) == before
    assert set(theme.style()) <= set(before)
    assert not set(theme.style()) & set(theme.context())  # what and how large are kept apart


def test_a_context_can_be_entered_twice_and_left_by_an_error():
    before = mpl.rcParams["font.size"]
    paper = theme.context("paper")
    with pytest.raises(ZeroDivisionError), paper, theme.context("talk"), paper:
        1 / 0  # noqa: B018
    assert mpl.rcParams["font.size"] == before


def test_themed_functions_follow_the_context_around_them():
    @theme.themed
    def size():
        return mpl.rcParams["font.size"]

    with theme.context("notebook"):
        inside = size()
    assert (inside, size()) == (10, 8)


def test_an_unknown_context_is_named_with_the_choices():
    with pytest.raises(HcvizError, match=r"'poster'.*paper, notebook, talk"):
        theme.context("poster")


def test_the_diverging_map_rises_in_lightness_and_is_neutral_at_zero():
    colors = theme.diverging()(np.linspace(0, 1, 256))[:, :3]
    assert (np.diff([theme.lightness(color) for color in colors]) > 0).all()
    assert np.ptp(theme.diverging()(0.5)[:3]) < 0.02
    assert colors[0][2] > colors[0][0]  # negative is blue
    assert colors[-40][0] > colors[-40][2]  # positive is yellow
