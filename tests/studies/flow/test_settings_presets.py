"""The presets of appendix B."""

import pytest

from lib.specs.fields import ParameterError
from studies import presets
from studies.presets import settings, setup_of

FIGURE = "flow_appendix_settings"


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_the_presets_own_setting_is_that_of_table_1(preset):
    """The same setup, mask updates and pruning, seeds of its own: its runs have the keys of that
    notebook's."""
    own, table_1 = settings(FIGURE, preset), settings("flow_table1_methods", preset)
    assert setup_of(own, "fingerprint") == setup_of(table_1, "fingerprint")
    moments = (
        "prune_start",
        "prune_end",
        "prune_every",
        "update_every",
        "update_end",
        "drop_fraction",
        "drop_schedule",
        "growth_gradient",
    )
    assert set(own.seeds) <= set(table_1.seeds)
    for name in ("sparsity", *moments, "held", "train_examples"):
        assert getattr(own, name) == getattr(table_1, name), name
    assert own.weight_decay in own.weight_decays
    assert 0 in own.weight_decays
    assert 0.95 in own.sparsities


WRONG = [  # parameter, value, words of the error
    (
        "update_intervals",
        [80, 2000],
        r"update_intervals is \[80, 2000\]: each must be less than the 640 steps that 20 epochs",
    ),
    ("update_intervals", [0], r"update_intervals\[0\] is 0: .*greater than or equal to 1"),
    ("update_intervals", "[80, 80]", "update_intervals is .*: each value may stand once"),
    ("drop_fractions", [0.1, 1.5], r"drop_fractions\[1\] is 1.5: .*less than or equal to 1"),
    ("drop_fractions", [-0.1], r"drop_fractions\[0\] is -0.1: .*greater than or equal to 0"),
    ("drop_fractions", [0.1, 0.1], "drop_fractions is .*: each value may stand once"),
    ("drop_fractions", [], "drop_fractions is .*at least 1"),
    ("longer", 1, "longer is 1: .*greater than or equal to 2"),
    ("longer", True, "longer is True: it should be a number"),
    ("longer", 2.5, "longer is 2.5: .*integer"),
]


@pytest.mark.parametrize(
    ("name", "value", "said"), WRONG, ids=[f"{name}-{value}" for name, value, _ in WRONG]
)
def test_wrong_lists_of_settings(name, value, said):
    with pytest.raises(ParameterError, match=said):
        settings(FIGURE, "quick", **{name: value})


def test_intervals_follow_the_length_of_a_run():
    """A shorter run, or fewer examples, takes shorter intervals; a number stands for a list of
    one."""
    assert settings(FIGURE, "desktop", update_intervals="[50, 400]", epochs=1).update_intervals == (
        50,
        400,
    )
    with pytest.raises(
        ParameterError, match=r"update_intervals is \[50, 100, 500\]: .*469 steps that 1 epochs are"
    ):
        settings(FIGURE, "desktop", epochs=1)
    with pytest.raises(
        ParameterError, match=r"update_intervals is \[300\]: .* the 100 steps that 10 epochs are"
    ):
        settings(FIGURE, "quick", train_examples=320, update_intervals=300, epochs=10)


@pytest.mark.parametrize("name", ["update_intervals", "drop_fractions", "longer"])
def test_only_this_figure_has_them(name):
    with pytest.raises(ParameterError, match=f"'{name}' .* does not exist here"):
        settings("flow_table1_methods", "quick", **{name: 5})
