"""What a user registers is known by its name and by all of its own that it uses."""

import textwrap

import pytest
import torch
from support import carry_out, small

import lib
from lib import registry
from lib.registry import criterion, load_plugin, source_hash
from lib.specs.fields import ParameterError
from lib.specs.run import Run, finetune


def module(tmp_path, text, name="mine"):
    """Run ``text`` as a plugin would be; its names."""
    path = tmp_path / f"{name}.py"
    path.write_text(textwrap.dedent(text))
    load_plugin(str(path))
    import sys

    return vars(sys.modules[f"plugin_{name}"])


@pytest.fixture(autouse=True)
def forgotten():
    """What a test registers leaves with it."""
    yield
    kinds = [registry.network, registry.dataset, registry.criterion, registry.initializer]
    for kind in [*kinds, registry.mask_update, registry.monitor]:
        for name in list(kind._stated):
            kind.forget(name)


HELPED = """
    import torch
    from lib import criterion

    POWER = {power}

    def size(w):
        return w.abs() ** POWER

    class Scale:
        factor = {factor}

        def __call__(self, w):
            return self.factor * w

    scale = None

    @criterion
    def mine(weights, generator, task):
        {comment}
        return {{name: size({inner}) for name, w in weights.items()}}
"""
PLAIN = {"power": 1, "factor": 2, "comment": "pass", "inner": "w"}


@pytest.mark.parametrize(
    "change",
    [
        {"power": 2},
        {"inner": "w + 1"},
        {"inner": "Scale()(w)"},
        {"comment": "weights = dict(weights)"},
    ],
    ids=str,
)
def test_an_edit_is_another_version(tmp_path, change):
    """Of the function, of a value or a helper that it names, also within a comprehension."""
    module(tmp_path, HELPED.format(**PLAIN))
    before = criterion.version("mine")
    assert before == criterion.version("mine")
    module(tmp_path, HELPED.format(**{**PLAIN, **change}))
    assert criterion.version("mine") != before
    module(tmp_path, HELPED.format(**PLAIN))
    assert criterion.version("mine") == before


def test_a_class_counts_with_its_attributes(tmp_path):
    """Also what no method says: a constant of the class."""
    used = {**PLAIN, "inner": "Scale()(w)"}
    module(tmp_path, HELPED.format(**used))
    before = criterion.version("mine")
    module(tmp_path, HELPED.format(**{**used, "factor": 3}))
    assert criterion.version("mine") != before


def test_what_an_entry_does_not_use_does_not_matter(tmp_path):
    """A class beside it, and attributes of other things that are called like its module's names."""
    module(tmp_path, HELPED.format(**PLAIN))
    before = criterion.version("mine")
    module(tmp_path, HELPED.format(**{**PLAIN, "factor": 9}))
    assert criterion.version("mine") == before


def test_a_helper_edited_behind_its_back(tmp_path):
    """The version is taken anew each time: a notebook's cell may have changed what it uses."""
    names = module(tmp_path, HELPED.format(**PLAIN))
    before = criterion.version("mine")
    names["POWER"] = 3
    assert criterion.version("mine") != before


def test_closures_tensors_and_defaults_count():
    def made(value, tensor, power=2):
        def entry(weights, power=power):
            return value, tensor, torch.float64

        return entry

    base = source_hash(made(1, torch.ones(3)))
    assert base == source_hash(made(1, torch.ones(3)))
    others = [made(2, torch.ones(3)), made(1, torch.zeros(3)), made(1, torch.ones(3), 3)]
    assert len({base, *map(source_hash, others)}) == 4


def test_without_a_source_a_version_is_asked_for():
    names = {"__name__": "elsewhere"}
    exec("def hidden(weights, generator, task): return weights", names)
    with pytest.raises(ValueError, match=r"source of 'hidden' cannot be read: give a ve"):
        criterion(names["hidden"])
    assert "hidden" not in criterion
    criterion(names["hidden"], version="1")
    assert criterion.version("hidden") == "1"


def test_what_cannot_be_hashed_is_named():
    thing = object()

    def odd(weights, generator, task):
        return thing

    with pytest.raises(ValueError, match="criterion 'odd' uses thing, a object that cannot be"):
        criterion(odd)


def test_names_of_the_project_are_not_taken():
    def magnitude(weights, generator, task):
        return weights

    with pytest.raises(ValueError, match="criterion 'magnitude' is the project's own"):
        criterion(magnitude)
    assert criterion.version("magnitude") is None


def test_an_unknown_name_is_answered_with_all():
    with pytest.raises(ValueError, match="criterion is 'luck': allowed are magnitude, random"):
        criterion["luck"]
    assert "luck" not in criterion
    assert len(criterion) == len(list(criterion))


def test_a_data_set_is_known_by_its_content():
    """Its fingerprint is in every key; its function may close over what it likes."""
    thing = object()

    def pile():
        return thing

    registry.dataset(pile)
    assert registry.dataset.version("pile") is None


def test_all_kinds_register_from_the_package():
    for name in ("network", "dataset", "criterion", "initializer", "mask_update", "monitor"):
        assert getattr(lib, name) is getattr(registry, name)


# -- in runs -----------------------------------------------------------------------------------


def pruned_by(name, seeds=(0,)):
    setup = small(criterion=name, epochs=1, sparse_epochs=1)
    return [finetune(Run.dense(setup, seed=seed), sparsity=0.8) for seed in seeds]


def test_an_edited_criterion_is_trained_anew(tmp_path, store, trained):
    """The pruned one alone, as another run; the runs of the old function are still found."""
    module(tmp_path, HELPED.format(**PLAIN))
    (before,) = pruned_by("mine")
    carry_out([before], store)
    module(tmp_path, HELPED.format(**{**PLAIN, "inner": "-1 / (w.abs() + 1)"}))
    with pytest.raises(ParameterError, match=r"criterion mine was edited .* build the run again"):
        carry_out([before], store)
    (after,) = pruned_by("mine")
    trained.clear()
    carry_out([after], store)
    assert trained == [[after.key]]
    assert after.parent == before.parent
    assert after.specification["versions"].keys() == {"criterion mine"}
    module(tmp_path, HELPED.format(**PLAIN))
    trained.clear()
    carry_out(pruned_by("mine"), store)
    assert not trained


def test_a_forgotten_criterion_stops_too(tmp_path, store):
    module(tmp_path, HELPED.format(**PLAIN))
    (run,) = pruned_by("mine")
    criterion.forget("mine")
    with pytest.raises(ParameterError, match="build the run again"):
        carry_out([run], store)
    assert not list(store.root.rglob("*.safetensors"))


# -- plugins -----------------------------------------------------------------------------------


def test_a_plugin_is_seen_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(textwrap.dedent(HELPED.format(**PLAIN)))
    monkeypatch.chdir(tmp_path)
    load_plugin("own.py")
    assert "mine" in criterion


@pytest.mark.parametrize(
    ("plugin", "said"),
    [("none.py", "is none"), (".", "is none"), ("broken.py", "does not run .NameError: name 'x'")],
)
def test_bad_plugins(tmp_path, monkeypatch, plugin, said):
    (tmp_path / "broken.py").write_text("x + 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"plugin is '{plugin}': .*{said}"):
        load_plugin(plugin)
