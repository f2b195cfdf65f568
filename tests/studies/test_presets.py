"""What a person gives on the command line means what they expect, or stops before any training with an error that helps."""

import math
import re

import pytest
from support import carry_out, small

from lib.data import sets
from lib.masks import dynamic
from lib.models import networks
from lib.specs.fields import ParameterError
from lib.specs.run import Run
from studies.presets import FURTHER, PRESETS, catalogue, settings, setup_of

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
    """Numbers and lists as text, a number of seeds, one value for a list: each means what it says."""
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
    ("dataset", "minst", "digits, bits12, mnist, cifar10, cifar100"),
    ("dataset", 3, "digits, bits12, mnist, cifar10, cifar100"),
    ("epochs", -1, "greater than or equal to 0"),
    ("epochs", 2.5, "integer"),
    ("epochs", "ten", "integer"),
    ("epochs", True, "a number"),
    ("sparse_epochs", -1, "greater than or equal to 0"),
    ("batch_size", 0, "greater than or equal to 1"),
    ("train_examples", 0, "greater than or equal to 1"),
    ("lr", 0, "greater than 0"),
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
    """The error names the parameter, shows the value and says what is allowed; nothing has been trained."""
    with pytest.raises(ParameterError) as caught:
        settings("fig6_noise", **{name: value})
    message = str(caught.value)
    assert re.match(rf"{name}\b", message)
    shown = [
        repr(v) for v in ([*value, value] if isinstance(value, list) else [value])
    ] + re.findall(r"[\d.]+", str(value))
    assert any(v in message for v in shown)
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
        match=rf"'{name}' \(= 0.9\) does not exist here \(did you mean '{near}'\?\); there are .*weight_decay",
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
    """Figure 6 has one sparsity, Figure 1 several: each refuses the other's name and hints at its own."""
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


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("figure", ["fig1_regimes", "fig6_noise"])
def test_every_preset_makes_sense(figure, preset):
    """Each preset of each figure is complete and gives a setup whose network fits its data."""
    s = settings(figure, preset)
    shapes = {"digits": (1, 8, 8), "bits12": (12,), "mnist": (1, 28, 28)}
    assert s.preset == preset
    assert setup_of(s, "fingerprint").dense.epochs > 0
    assert (s.sparsity if figure == "fig6_noise" else s.sparsities) is not None
    assert networks.prunable(
        networks.build(
            s.network, shapes.get(s.dataset, (3, 32, 32)), 10, widths=s.widths, width=s.width
        ),
        s.keep_dense,
    )


def test_quick_presets_need_no_download_and_enough_seeds():
    """The default runs on embedded data with at least five seeds."""
    for figure in ("fig1_regimes", "fig6_noise"):
        s = settings(figure)
        assert s.dataset in ("digits", "bits12")
        assert len(s.seeds) >= 5


def test_settings_for_another_set():
    """Where a preset has settings of its own for a set, naming the set takes them, and what is given still overrides."""
    found = 0
    for figure, presets in catalogue().items():
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
    """What Table 4 prints, and updates that make sense in so many steps; a figure without such a preset names its own."""
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


@pytest.mark.parametrize(("name", "value"), [("folder", "somewhere"), ("image_size", 64)])
def test_a_folder_is_for_the_dataset_folder(name, value):
    """A path or a size beside another dataset would mean nothing."""
    with pytest.raises(
        ParameterError,
        match=f"{name} is .*: it is for the dataset 'folder', and dataset is 'mnist'",
    ):
        settings("flow_table1_methods", "desktop", **{name: value})


def test_more_examples_than_there_are(store):
    """It shows when the data are loaded, before any training: parameter, value, and how many there are."""
    with pytest.raises(
        sets.DataError, match="train_examples is 5000; 'digits' has 1 to 1000 train examples"
    ):
        small(train_examples=5000)
    assert not store.root.exists()


def test_augmentation_needs_images(store):
    """Crops and flips of 12-bit patterns mean nothing: an error that names the parameter, before any training."""
    with pytest.raises(ValueError, match="augment"):
        carry_out([Run.dense(small(dataset="bits12", augment=True), seed=0)], store)
    assert not list(store.root.rglob("*.safetensors"))
