"""``make gpu``: where there is no GPU it says so; rehearsed on the CPU, every part of it runs, and
what is wrong on a device is said."""

import torch

from benchmarks import gpu, gpu_checks


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "There is no GPU here that PyTorch can use: nothing was run."
    ]


def test_the_whole_of_it_rehearsed(tmp_path, capsys):
    """Nothing differs, no step falls back to plain ones, and the pages hold every table."""
    assert gpu.main(["--device", "cpu", "--output", str(tmp_path)]) == 0
    pages = [tmp_path / f"gpu-{part}.md" for part in gpu.PARTS]
    told, text = capsys.readouterr().out, "".join(page.read_text("utf-8") for page in pages)
    assert "DIFFERS" not in told + text
    for kind in ("mlp, rigl: mask", "mlp, sam: weights", "mlp: Tr(H)", "killed on cpu", "notebook"):
        assert kind in text
    for title in ("What is wrong", "Checks", "Targets", "LeNet-5, compiled", "Figure 1"):
        assert f"## {title}" in text


def test_what_differs_on_a_device_is_said(monkeypatch):
    """An estimate that is off by a hundredth there; a run that ends elsewhere."""
    real, calls = gpu_checks.estimators, []

    def off(*arguments):
        calls.append(None)
        found = real(*arguments)
        return {n: v * 1.01 for n, v in found.items()} if len(calls) == 2 else found

    monkeypatch.setattr(gpu_checks, "estimators", off)
    assert {line["verdict"] for line in gpu_checks.of_estimators("cpu", ("mlp",))} == {"DIFFERS"}
    tensors = {
        "weights": torch.ones(4),
        "mask": torch.arange(4) > 0,
        "start": torch.full((4,), 0.9),
    }
    other = {"weights": torch.full((4,), 1.002), "mask": torch.arange(4) > 1}
    lines = gpu_checks._compared("run", (tensors, [{"loss": 1.0}]), (other, [{"loss": 1.1}]))
    assert [line["verdict"] for line in lines] == ["DIFFERS"] * 3
