"""What a person gives means what they expect, or stops before any training with a helpful error."""

import math
import re

import pytest
import yaml
from support import carry_out, small

from lib import registry
from lib.data import sets
from lib.masks import dynamic
from lib.models import networks
from lib.specs.fields import ParameterError
from lib.specs.run import Run
from studies.presets import FURTHER, PRESETS, Settings, catalogue, held, own, settings, setup_of

MEANT = [  # parameter, what papermill hands over, what it means
    ("sparsity", 0.9, 0.9),
    ("sparsity", "0.9", 0.9),
    ("sparsity", 0, 0.0),
    ("seeds", "[1,2]", (1, 2)),
    ("seeds", "[1, 2]", (1, 2)),
    ("seeds", "(4, 2)", (4, 2)),
    ("seeds", [7], (7,)),
    ("seeds", 3, (0, 1, 2)),
    ("seeds", "3", (0, 1, 2)),
    ("epochs", "12", 12),
    ("epochs", 0, 0),
    ("widths", "[300, 100]", (300, 100)),
    ("widths", 50, (50,)),
    ("widths", "50", (50,)),
    ("nesterov", "True", True),
    ("nesterov", "false", False),
    ("dataset", "bits12", "bits12"),
    ("keep_dense", "last", ("last",)),
    ("keep_dense", "[]", ()),
    ("noise", "0.25", 0.25),
    ("lr", "1e-2", 0.01),
    ("train_examples", "500", 500),
]


@pytest.mark.parametrize(("name", "given", "meant"), MEANT, ids=repr)
def test_meaningful_values(name, given, meant):
    """Numbers and lists as text, a number of seeds, one value for a list: all are understood."""
    found = getattr(settings("fig6_noise", **{name: given}), name)
    assert found == meant
    assert type(found) is type(meant)


REFUSED = [  # parameter, value, words that say what is allowed
    ("sparsity", 1.5, "less than 1"),
    ("sparsity", 1.0, "less than 1"),
    ("sparsity", "1.5", "less than 1"),
    ("sparsity", 95, "less than 1"),
    ("sparsity", -0.1, "greater than or equal to 0"),
    ("sparsity", "abc", "number"),
    ("sparsity", math.nan, "finite number"),
    ("sparsity", "nan", "finite number"),
    ("sparsity", "inf", "finite number"),
    ("sparsity", "[0.5, 0.9]", "number"),
    ("sparsity", True, "a number"),
    ("preset", "papre", "quick, desktop, paper"),
    ("seeds", 0, "at least 1"),
    ("seeds", -2, "at least 1"),
    ("seeds", [1, 1], "once"),
    ("seeds", "[1, 1.0]", "once"),
    ("seeds", [-1], "greater than or equal to 0"),
    ("seeds", 2.5, "number of seeds .*list"),
    ("seeds", "many", "number of seeds .*list"),
    ("seeds", [0.5], "integer"),
    ("seeds", "[1, 2", "list"),
    ("seeds", "[]", "at least 1"),
    ("seeds", True, "number of seeds .*list"),
    ("seeds", 10**9, "at most 10,000"),
    ("seeds", "1000000000", "at most 10,000"),
    ("seeds", '["0", 0]', "once"),
    ("seeds", [10**30], "less than or equal to"),
    ("dataset", "minst", "digits, bits12, mnist, cifar10, cifar100"),
    ("dataset", 3, "digits, bits12, mnist, cifar10, cifar100"),
    ("dataset", ["digits"], "digits, bits12, mnist, cifar10, cifar100"),
    ("network", '["mlp"]', "mlp, lenet-300-100, lenet-5"),
    ("criterion", ["magnitude"], "magnitude, random"),
    ("preset", ["quick"], "quick, desktop, paper"),
    ("epochs", -1, "greater than or equal to 0"),
    ("epochs", 2.5, "integer"),
    ("epochs", "ten", "integer"),
    ("epochs", True, "a number"),
    ("sparse_epochs", -1, "greater than or equal to 0"),
    ("batch_size", 0, "greater than or equal to 1"),
    ("train_examples", 0, "greater than or equal to 1"),
    ("epochs", 10**9, "less than or equal to 1000000"),
    ("batch_size", 10**12, "less than or equal to"),
    ("train_examples", "1" + "0" * 40, "less than or equal to|valid integer"),
    ("widths", [10**9], "less than or equal to 1000000"),
    ("lr", 0, "greater than 0"),
    ("lr", True, "a number"),
    ("momentum", False, "a number"),
    ("noise", True, "a number"),
    ("milestones", [70], "none may lie beyond the last epoch, 60"),
    ("milestones", "[30, 61]", "none may lie beyond the last epoch, 60"),
    ("lr_floor", 0.5, "may not lie above the rate, lr, 0.1"),
    ("width", 2, "the network 'mlp' ignores it; it takes widths, activation"),
    ("pooling", "avg", "the network 'mlp' ignores it"),
    ("score_examples", 1001, "there are 1000 training examples"),
    ("lr", "nan", "finite number"),
    ("momentum", 1.5, "less than or equal to 1"),
    ("weight_decay", -1e-4, "greater than or equal to 0"),
    ("noise", 1.2, "less than or equal to 1"),
    ("noise_kind", "salt", "symmetric, flip"),
    ("network", "resnet-21", "mlp, lenet-300-100, lenet-5"),
    ("widths", "[300, 0]", "greater than or equal to 1"),
    ("criterion", "luck", "magnitude, random"),
    ("scope", "gobal", "global, layer"),
    ("init", "hee", "he, he-fan-out"),
    ("keep_dense", "frst", "'first' or 'last'"),
    ("schedule", "staircase", "cosine"),
    ("precision", "float16", "'float32' or 'bfloat16'"),
    ("nesterov", "perhaps", "boolean"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED, ids=repr)
def test_senseless_values_are_refused(name, value, allowed, store):
    """The error names the parameter, shows the value, says what is allowed; nothing is trained."""
    with pytest.raises(ParameterError) as caught:
        settings("fig6_noise", **{name: value})
    message = str(caught.value)
    assert re.match(rf"{name}\b", message)
    shown = [
        repr(v) for v in ([*value, value] if isinstance(value, list) else [value])
    ] + re.findall(r"[\d.]+", str(value))
    assert any(v in message for v in [*shown, str(value)])
    assert re.search(allowed, message)
    assert "\n" not in message
    assert not store.root.exists()


def test_all_wrong_parameters_are_named_at_once():
    """Two mistakes, one message."""
    with pytest.raises(ParameterError, match=r"epochs is -1: .*; lr is 0: "):
        settings("fig6_noise", epochs=-1, lr=0)


@pytest.mark.parametrize(
    ("name", "near"),
    [("sparsty", "sparsity"), ("seed", "seeds"), ("epoch", "epochs"), ("data_set", "dataset")],
)
def test_unknown_names_get_a_hint(name, near):
    """A name that does not exist is refused with its value, the near name and all names."""
    with pytest.raises(
        ParameterError,
        match=rf"'{name}' \(= 0.9\) does not exist here \(did you mean '{near}'\?\); there are "
        ".*weight_decay",
    ):
        settings("fig6_noise", **{name: 0.9})


def test_unknown_names_without_a_neighbour():
    """A name that is like no other gets no hint, but all names."""
    with pytest.raises(
        ParameterError,
        match=r"'xyz' \(= None|'xyz' \(= 1\) does not exist here; there are activation",
    ):
        settings("fig6_noise", xyz=1)


def test_a_parameter_of_another_figure_is_refused():
    """Figure 6 has one sparsity, Figure 1 several: each refuses the other's name."""
    with pytest.raises(ParameterError, match="did you mean 'sparsity'"):
        settings("fig6_noise", sparsities=[0.5])
    with pytest.raises(ParameterError, match="did you mean 'sparsities'"):
        settings("fig1_regimes", sparsity=0.5)


def test_unknown_figures():
    """An unknown figure is answered with the known ones."""
    with pytest.raises(
        ParameterError, match=r"'fig9' is unknown; there are .*fig1_regimes.*fig6_noise"
    ):
        settings("fig9")


def test_none_leaves_the_presets_value():
    """A parameter left at None takes the preset's value; anything given overrides it."""
    plain = settings("fig6_noise")
    assert settings("fig6_noise", sparsity=None, epochs=None) == plain
    other = settings("fig6_noise", sparsity=0.5)
    assert other.sparsity == 0.5
    assert other.model_copy(update={"sparsity": plain.sparsity}) == plain


EVERY = [
    (figure, name)
    for figure, entries in catalogue().items()
    for name in entries
    if name in (*PRESETS, *FURTHER)
]


@pytest.mark.parametrize(("figure", "preset"), EVERY)
def test_every_preset_makes_sense(figure, preset):
    """Each preset of each figure is complete and gives a setup whose network fits its data."""
    s = settings(figure, preset)
    shapes = {"digits": (1, 8, 8), "bits12": (12,), "mnist": (1, 28, 28), "folder": (3, 224, 224)}
    setup = setup_of(s, "fingerprint")
    assert s.preset == preset
    assert setup.dense.epochs > 0 or figure == "flow_fig1_init"
    assert (s.sparsity or s.sparsities) is not None
    shape = shapes.get(s.dataset, (3, 32, 32))
    assert networks.prunable(
        networks.build(s.network, shape, 10, **setup.network.options), s.keep_dense
    )


@pytest.mark.parametrize("figure", catalogue())
def test_a_figure_lists_its_own_parameters(figure):
    """What its presets name, and what every run has; not the plans of other figures."""
    found = own(figure)
    assert found == sorted(found)
    assert set(found) <= set(Settings.model_fields)
    assert {"preset", "plugin", "seeds", "dataset", "network", "device", "save_to"} <= (
        set(found) | ({"network"} if figure == "early_fig4_sizes" else set())
    )
    with pytest.raises(ParameterError) as caught:
        settings(figure, nothing=1)
    assert str(caught.value).endswith(f"there are {', '.join(found)}")


@pytest.mark.parametrize(
    ("figure", "name"),
    [
        ("fig6_noise", "patience"),
        ("fig6_noise", "rewind"),
        ("fig6_noise", "update_every"),
        ("fig6_noise", "examples"),
        ("fig1_regimes", "noise"),
        ("early_fig1_periods", "sparse_epochs"),
        ("early_fig6_schedules", "schedule"),
        ("flow_table1_methods", "criterion"),
        ("flow_fig1_init", "epochs"),
    ],
)
def test_other_figures_parameters_are_refused(figure, name):
    with pytest.raises(ParameterError, match=f"'{name}' .* does not exist here"):
        settings(figure, **{name: 1})
    with pytest.raises(ParameterError, match=f"'{name}' .* does not exist here"):
        settings(figure, **{name: None})


@pytest.mark.parametrize(
    ("figure", "given", "said"),
    [
        ("early_fig1_periods", {"rate_floor": 0.5}, "rate_floor is 0.5: it may not lie above"),
        ("early_fig1_periods", {"watch_examples": 1001}, "there are 1000 training examples"),
        ("early_fig1_periods", {"watch_examples": 400, "train_examples": 300}, "there are 300"),
        ("table2_curvature", {"examples": 2000}, "examples is 2000: there are 1000 training"),
        ("table2_curvature", {"probes": 10**9}, "less than or equal to 10000"),
        ("flow_fig10_hessian", {"exact_examples": 1001}, "there are 1000 training examples"),
        ("flow_fig10_hessian", {"update_every": 10**9}, "update_every|around"),
        ("fig1_regimes", {"sparsities": [0.5, 1]}, "less than 1"),
        ("fig1_regimes", {"sparsities": [0.5, "0.5"]}, "each value may stand once"),
        ("fig1_regimes", {"network": "resnet-20", "widths": [3]}, "widths is .* ignores it"),
        ("fig1_regimes", {"epochs": 20, "sparse_milestones": [31]}, "the last epoch, 30"),
        ("flow_fig1_init", {"input_shape": [3, 10**6, 10**6]}, "less than or equal to 4096"),
        ("flow_fig1_init", {"figure": "x"}, "'figure' .* does not exist here"),
    ],
)
def test_bad_values_of_other_figures(figure, given, said):
    with pytest.raises(ParameterError, match=said):
        settings(figure, **given)


def test_of_a_preset_what_there_is_is_taken():
    """Milestones that fewer epochs do not reach, examples that a smaller set does not have."""
    s = settings("fig6_noise", epochs=40, sparse_epochs=20)
    assert s.milestones == (30, 50)
    setup = setup_of(s, "fingerprint")
    assert (setup.dense.milestones, setup.sparse.milestones) == ((30,), ())
    assert settings("table2_curvature", train_examples=100).examples == 500


def test_another_network_has_its_own_options():
    """Those of the preset's network go, unless the other takes them; what is given stays."""
    assert settings("fig6_noise", network="lenet-300-100").widths is None
    assert settings("fig6_noise", network="mlp").widths == (200, 200)
    assert settings("fig6_noise", network="mlp", widths=[9]).widths == (9,)
    assert settings("fig1_regimes", "paper", network="resnet-20").width == 4
    assert settings("fig1_regimes", "paper", network="lenet-5").width is None


def test_a_plugin_is_run_before_the_rest_is_checked(tmp_path, monkeypatch):
    """Its names are allowed from then on; a broken or missing one stops with its name."""
    text = "from lib import criterion\n\n\n@criterion\ndef mine(weights, generator, task):\n"
    (tmp_path / "own.py").write_text(text + "    return weights\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match="criterion is 'mine': allowed are"):
        settings("fig6_noise", criterion="mine")
    s = settings("fig6_noise", criterion="mine", plugin="own.py")
    assert (s.criterion, s.plugin) == ("mine", "own.py")
    registry.criterion.forget("mine")
    with pytest.raises(ValueError, match=r"plugin is 'other.py': allowed is a .py file"):
        settings("fig6_noise", plugin="other.py")


def test_quick_presets_need_no_download_and_enough_seeds():
    """The default runs on embedded data with at least five seeds."""
    for figure in ("fig1_regimes", "fig6_noise"):
        s = settings(figure)
        assert s.dataset in ("digits", "bits12")
        assert len(s.seeds) >= 5


def test_settings_for_another_set():
    """Naming a set takes the preset's settings for it, and what is given still overrides."""
    found = 0
    for figure, entries in catalogue().items():
        presets = {
            name: values for name, values in entries.items() if name not in ("only", "without")
        }
        for variant in (name for name in presets if name.split("_")[0] in PRESETS and "_" in name):
            preset, dataset = variant.split("_", 1)
            s = settings(figure, preset, dataset=dataset, epochs=1)
            found += 1
            assert (s.preset, s.dataset, s.epochs, s.network) == (
                preset,
                dataset,
                1,
                presets[variant]["network"],
            )
            setup_of(s, "fingerprint")
    assert found == sum(
        "_" in name and name not in FURTHER for presets in catalogue().values() for name in presets
    )


@pytest.mark.parametrize(
    ("preset", "network", "steps"),
    [("imagenet_resnet50", "resnet-50", 31_926), ("imagenet_vgg16", "vgg-16", 127_704)],
)
def test_presets_of_imagenet(preset, network, steps):
    """What Table 4 prints, and updates that make sense in so many steps."""
    s = settings("flow_table1_methods", preset)
    assert (s.dataset, s.network, s.epochs * -(-1_281_167 // s.batch_size)) == (
        "folder",
        network,
        steps,
    )
    assert (s.warmup_epochs, s.milestones, s.label_smoothing, s.nesterov, s.scope) == (
        5,
        (30, 70, 90),
        0.1,
        True,
        "erk",
    )
    dynamic.check("gradual", every=s.prune_every, start=s.prune_start, end=s.prune_end, steps=steps)
    dynamic.check(
        "rigl",
        every=s.update_every,
        start=0,
        end=s.update_end,
        steps=steps,
        fraction=s.drop_fraction,
    )
    spec = setup_of(s, "fingerprint").data
    assert (spec.folder, spec.name, spec.image_size) == ("imagenet", "folder", None)
    with pytest.raises(
        ParameterError, match=rf"preset is '{preset}'; allowed are quick, desktop, paper$"
    ):
        settings("fig6_noise", preset)


def test_more_examples_than_there_are(store):
    """It shows when the data are loaded, before any training."""
    with pytest.raises(
        sets.DataError, match="train_examples is 5000; 'digits' has 1 to 1000 train examples"
    ):
        small(train_examples=5000)
    assert not store.root.exists()


def test_augmentation_needs_images(store):
    """Crops and flips of 12-bit patterns mean nothing."""
    with pytest.raises(ValueError, match="augment"):
        carry_out([Run.dense(small(dataset="bits12", augment=True), seed=0)], store)
    assert not list(store.root.rglob("*.safetensors"))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_frontier_prunes_gradually_in_whole_updates(preset):
    """From a quarter to three quarters of the dense training; a rest would be refused there."""
    s = settings("gap_frontier", preset=preset)
    steps = s.epochs * -(-(s.train_examples or sets.size(s.dataset)) // s.batch_size)
    assert (3 * steps // 4 - steps // 4) % s.prune_every == 0


def test_files_of_the_studies_hold_plain_values_alone(tmp_path):
    """A tag that would make an object, or call something, is refused."""
    file = tmp_path / "claims.yaml"
    file.write_text("!!python/object/apply:os.getcwd []", encoding="utf-8")
    with pytest.raises(yaml.YAMLError, match="python/object"):
        held(str(file))
