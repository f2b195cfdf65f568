"""``docs/extending.md``: its blocks run as they stand, and cover every registry."""

import ast
import json
import os
import re
import sys

import pytest
import torch
from support import carry_out

from lib import files, fisher_penalty, registry, scratch
from lib.data import sets
from lib.data.folder import load
from lib.runs.store import Store

PAGE = (files.HOME / "docs" / "extending.md").read_text(encoding="utf-8")
KINDS = [kind for kind in vars(registry).values() if isinstance(kind, registry.Registry)]


@pytest.fixture
def mine(tmp_path):
    """The page's code as a plugin, its namespace; what it registers is taken out again."""
    before = {kind.kind: set(kind) for kind in KINDS}
    path = tmp_path / "extending.py"
    path.write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))
    registry.load_plugin(path)
    new = {kind.kind: set(kind) - before[kind.kind] for kind in KINDS}
    yield vars(sys.modules["plugin_extending"]), new
    for kind in KINDS:
        for name in new[kind.kind]:
            kind.forget(name)


def test_every_registry_has_its_example(mine):
    """One name each, known by its source, and said with its decorator."""
    _, new = mine
    assert {kind: len(names) for kind, names in new.items()} == dict.fromkeys(new, 1)
    for kind in KINDS:
        assert f"@{kind.kind}\n" in PAGE
        assert not kind.hashed or kind.version(*new[kind.kind])


def test_the_examples_train_together(mine, tmp_path):
    """A vision transformer, pruned, finetuned, trained from scratch, its mask changed."""
    names, _ = mine
    runs = names["plan"]()
    runs.append(scratch(runs[0], sparsity=0.8, objective=fisher_penalty(0.01)))
    table = carry_out(runs, Store(tmp_path / "runs"))
    assert not table["diverged"].any()
    last = table.groupby("key").tail(1)
    assert (last["pruned"] == (last["sparsity"] * last["prunable"]).round()).all()
    watched = table[table["solution"] == "sol_d"]
    assert (watched["fisher"] > 0).all()
    assert watched["sureness"].between(0.5, 1).all()
    ends = last.set_index("key")["mask"]
    assert ends[runs[2].key] != ends[runs[3].key], "the rule changed no mask"
    losses = last.set_index("key")["train_loss"]
    assert losses[runs[2].key] != losses[runs[4].key], "selection and objective changed nothing"


def cell_of(name):
    """The function that ``notebooks/your_own.ipynb`` defines under this name."""
    book = json.loads((files.HOME / "notebooks" / "your_own.ipynb").read_text(encoding="utf-8"))
    (source,) = (s for c in book["cells"] if f"def {name}(" in (s := "".join(c["source"])))
    (made,) = (d for d in ast.parse(source).body if getattr(d, "name", None) == name)
    names = {"sets": sets, "torch": torch}
    exec(ast.unparse(made), names)
    return names[name]


@pytest.mark.parametrize("of_notebook", [False, True])
def test_a_folder_of_images_becomes_tensors(mine, tmp_path, monkeypatch, of_notebook):
    """As the page and the notebook read it: both parts, the classes by their folders, no pipe.

    PostScript under another name is refused; Pillow alone would have Ghostscript run it.
    """
    image = pytest.importorskip("PIL.Image")
    eps = pytest.importorskip("PIL.EpsImagePlugin")
    monkeypatch.setattr(eps, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    for number, place in enumerate(("train/a", "train/b", "val/a", "val/b")):
        (tmp_path / place).mkdir(parents=True)
        image.new("RGB", (20, 12), (number, 0, 0)).save(tmp_path / place / "one.png")
    os.mkfifo(tmp_path / "train" / "a" / "pipe.png")
    read = cell_of("folder") if of_notebook else mine[0]["pictures"]
    x_train, y_train, x_test, y_test = read(str(tmp_path), 8)
    assert x_train.shape == x_test.shape == (2, 3, 8, 8)
    assert sorted(y_train.tolist()) == sorted(y_test.tolist()) == [0, 1]
    torch.testing.assert_close(255 * x_train[:, 0, 0, 0], y_train.float())
    torch.testing.assert_close(255 * x_test[:, 0, 0, 0], 2.0 + y_test)
    said = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "val" / "b" / "two.png").write_text(said)
    load.cache_clear()  # which knows the folder by its name
    with pytest.raises(sets.DataError, match=r"of the 3 images in .*val .*: b/two\.png"):
        read(str(tmp_path), 8)


def test_a_set_of_torchvision_keeps_its_channels(mine, monkeypatch):
    """CIFAR-10's own array has them last."""
    datasets = pytest.importorskip("torchvision.datasets")
    image = pytest.importorskip("PIL.Image")

    class Set(datasets.VisionDataset):
        def __init__(self, path, train, download, transform):
            super().__init__(path, transform=transform)
            self.count = 3 if train else 2

        def __len__(self):
            return self.count

        def __getitem__(self, index):
            if index >= self.count:
                raise IndexError
            return self.transform(image.new("RGB", (12, 8), (51, 0, 255))), index

    monkeypatch.setattr(datasets, "Two", Set, raising=False)
    x_train, y_train, x_test, y_test = mine[0]["of_torchvision"]("Two")
    assert (x_train.shape, x_test.shape) == ((3, 3, 8, 12), (2, 3, 8, 12))
    assert (y_train.tolist(), y_test.tolist()) == ([0, 1, 2], [0, 1])
    torch.testing.assert_close(x_test[0, :, 0, 0], torch.tensor([0.2, 0.0, 1.0]))
