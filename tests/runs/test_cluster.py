"""Sweeps on a real scheduler with worker processes: the same table, whoever dies, whoever comes.

The short ones stand in `make test`; those marked ``cluster`` take minutes: `make cluster`.
"""

import collections
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support import (
    carry_out,
    family,
    leftovers,
    namespace,
    same_results,
    same_table,
    serve,
    small,
    start_process,
)

from lib import files, registry
from lib.runs import cluster as clusters
from lib.runs import results, sweep
from lib.runs.evaluate import measure
from lib.runs.store import Store
from lib.specs.fields import ParameterError
from lib.specs.run import Run, finetune
from studies import notebook

long = pytest.mark.cluster
# What a worker does before its first task: it saves the state after every epoch, of which it takes
# down the beginning, and takes its time.
WATCHED = """
import time
from lib.runs import sweep
from lib.training import loop

sweep.CHECKPOINT_SECONDS = -1.0
real = loop.Training.run_epoch

def watched(self, *arguments):
    with open({log!r}, "a") as file:
        file.writelines(f"{{member.run.key}} {{self.epoch}}\\n" for member in self.members)
    time.sleep({pause})
    real(self, *arguments)

loop.Training.run_epoch = watched
"""


class Place:
    """A scheduler, and workers that are started by and by: each a process of its own."""

    def __init__(self, folder: Path):
        self.folder, self.running = folder, []
        self.log = folder / "epochs"
        self.address = self.schedule()

    def schedule(self) -> str:
        """The address of a new scheduler."""
        said = self.folder / f"scheduler{len(self.running)}"
        self.scheduler = start_process(serve, "Scheduler", said, "")
        self.running.append(self.scheduler)
        while not said.exists():
            assert self.scheduler.is_alive()
            time.sleep(0.02)
        return said.read_text()

    def worker(self, before: str | None = None, pause: float = 0.0):
        """A new worker, that runs the code ``before`` its first task."""
        before = WATCHED.format(log=str(self.log), pause=pause) if before is None else before
        said = self.folder / f"worker{len(self.running)}"
        self.running.append(start_process(serve, "Worker", said, before, self.address))
        return self.running[-1]

    def stranger(self, home=files.HOME, prefix=()):
        """A worker that a shell starts, with the library at ``home``."""
        command = [*prefix, sys.executable, "-m", "distributed.cli.dask_worker", self.address]
        paths = os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")])
        with open(self.folder / f"worker{len(self.running)}.log", "w") as said:
            process = subprocess.Popen(
                [*command, "--no-nanny", "--host", "127.0.0.1", "--no-dashboard"],
                cwd=home, env={**os.environ, "PYTHONPATH": paths}, stdout=said, stderr=said,
            )  # fmt: skip
        self.running.append(process)

    def epochs(self) -> collections.Counter:
        """How often each (run, epoch) was begun by the workers."""
        text = self.log.read_text() if self.log.exists() else ""
        return collections.Counter(text.splitlines())

    def close(self):
        connection = clusters._clients.pop(self.address, None)
        if connection is not None:
            connection.close()
        for process in self.running:
            process.kill()
            getattr(process, "join", getattr(process, "wait", None))()


@pytest.fixture
def place(tmp_path):
    """A scheduler without workers."""
    pytest.importorskip("distributed", reason="Dask is not installed: pip install '.[cluster]'")
    (tmp_path / "place").mkdir()
    made = Place(tmp_path / "place")
    yield made
    made.close()


def there(runs, store, address, **options):
    """The table of ``runs``, carried out on the cluster."""
    return sweep.carry_out(runs, store=store, progress=False, cluster=address, **options)


def expected(runs, folder):
    """(the table of ``runs`` trained here, its store)."""
    store = Store(folder)
    return carry_out(runs, store), store


def soon(condition, act, seconds=120):
    """In the background: ``act`` once the ``condition`` holds."""

    def wait():
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


# -- in seconds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", ["local", "local:0", "local:-1", "local:x", "host", "4", 4])
def test_what_is_no_cluster_is_refused(cluster, store):
    """Before any work, with what is allowed; so is a notebook's parameter."""
    if isinstance(cluster, str):
        with pytest.raises(ParameterError, match=r"cluster is .*local:N .*tcp://host:8786"):
            there([], store, cluster)
    with pytest.raises(ParameterError, match="cluster is"):
        notebook.parameters("fig6_noise", {"cluster": cluster})


def test_a_notebook_says_where_its_runs_go(monkeypatch):
    """Every figure takes the parameter; without it they stay, whatever was said before."""
    monkeypatch.setattr(clusters, "chosen", None)
    notebook.parameters("early_rule", {"cluster": "local:4"})
    assert clusters.where(None) == "local:4"
    assert clusters.where("tcp://host:1") == "tcp://host:1"
    notebook.parameters("fig1_regimes", {})
    assert clusters.where(None) is None


def test_without_dask_it_is_said(store, monkeypatch):
    """What to install."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ParameterError, match=r"needs Dask, pip install .*\[cluster\]"):
        there([Run.dense(small(), seed=0)], store, "local:1")


@pytest.fixture
def plugin(tmp_path):
    """A file that registers a criterion of one's own, and what it registered."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from lib.registry import criterion\n"
        "def turned(weight):\n    return -weight.abs()\n"
        "@criterion\ndef largest_first(weights, generator, task):\n"
        "    return {name: turned(weight) for name, weight in weights.items()}\n"
        "def live(network, mask, run, images):\n"
        "    return {'live': sum(int(layer.sum()) for layer in mask.values())}\n"
    )
    registry.load_plugin(str(path))
    yield sys.modules["plugin_mine"]
    registry.criterion.forget("largest_first")


def test_the_same_table(place, store, tmp_path, plugin):
    """And weights, with a criterion of one's own; measures too; nothing lies about after it."""
    place.worker()
    runs = family(small(criterion="largest_first", epochs=2, sparse_epochs=1), seeds=range(3))
    table, reference = expected(runs, tmp_path / "here")
    same_table(there(runs, store, place.address), table)
    same_results(runs, store, reference)
    begun = place.epochs()
    assert sum(begun.values()) == len(begun) == 3 * 2 + 6 * 1, "each epoch was trained there, once"
    assert leftovers(store.root) == []
    options = {"name": "live", "function": plugin.live, "progress": False}
    rows = measure(runs, store=store, cluster=place.address, **options)
    assert len(list((store.root / "measured").glob("*/*"))) == len(runs)
    same_table(rows, measure(runs, store=reference, **options))
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.safetensors")}
    same_table(there(runs, store, "tcp://127.0.0.1:1"), table)  # nothing to do: nobody is asked
    assert before == {path: path.stat().st_mtime_ns for path in store.root.rglob("*.safetensors")}


def test_workers_of_this_machine_keep_their_memory(monkeypatch):
    """Dask's own setting costs training a sixth of its time: benchmarks/clusters.py."""
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    with clusters._client("local:1").cluster:
        told = clusters._client("local:1").run(os.getenv, "MALLOC_TRIM_THRESHOLD_")
    assert set(told.values()) == {str(2**28)}


def test_a_scheduler_that_dies_while_workers_are_asked():
    """Between two looks at it: it is said in the same words, not as an error of a socket."""

    class Dead:
        def scheduler_info(self):
            return {"workers": {"tcp://a": {}}}

        def run(self, *_, **__):
            raise OSError("Timed out trying to connect")

    with pytest.raises(clusters.ClusterError, match="scheduler is gone: start it"):
        clusters._fit(Dead(), {})


def test_parts():
    """Large networks go by few, small ones together, each worker has some, none beyond memory;
    a part waits for those that hold its parents."""
    dense = [Run.dense(small(), seed=seed) for seed in range(24)]
    sparse = [finetune(run, sparsity=0.5) for run in dense]
    images = {run.data: sweep.images_of(run.data) for run in dense[:1]}
    networks = {
        (run.data, run.network): sweep.loop.network_of(run, images[run.data]) for run in dense[:1]
    }
    store = Store("nowhere")

    def tasks(workers, memory=2**40):
        return sweep._tasks([dense, sparse], networks, images, store, "cpu", workers, memory)

    def sizes(*arguments):
        return [len(task.call.args[0]) for task in tasks(*arguments)]

    assert sizes(2) == [12, 12, 12, 12]  # a step of them is hardly worth its calls
    assert sizes(24) == [1] * 48
    assert max(sizes(1, 20 * sweep._room(dense[0], *networks.values()))) == 10
    assert [sorted(task.needs) for task in tasks(2)] == [[], [], [0], [1]]
    assert sum(task.size for task in tasks(3)) == 48 * 3 * 150


def test_tasks_of_large_networks_are_small(monkeypatch):
    """Some for each worker, so that one that comes late, or is slow, does what it can."""
    monkeypatch.setattr(sweep, "STEP", 0)
    dense = [Run.dense(small(), seed=seed) for seed in range(24)]
    run = dense[0]
    images = {run.data: sweep.images_of(run.data)}
    networks = {(run.data, run.network): sweep.loop.network_of(run, images[run.data])}
    tasks = sweep._tasks([dense], networks, images, Store("nowhere"), "cpu", 2, 2**40)
    assert [len(task.call.args[0]) for task in tasks] == [24 // (2 * sweep.PARTS)] * 8


# -- in minutes ------------------------------------------------------------------------------------


def long_runs(**more):
    """Runs that a worker sits at for some time."""
    return family(small(epochs=30, sparse_epochs=20, **more), seeds=(0, 1))


@long
def test_a_killed_worker_costs_an_epoch(place, store, tmp_path):
    """What it had since its last checkpoint; another one, which came late, goes on from there."""
    runs = long_runs()
    table, reference = expected(runs, tmp_path / "here")
    doomed = place.worker(pause=0.2)
    begun = soon(lambda: len(place.epochs()) > 8, lambda: (doomed.kill(), place.worker()))
    same_table(there(runs, store, place.address), table)
    begun.join()
    doomed.join()
    assert doomed.exitcode == -signal.SIGKILL
    same_results(runs, store, reference)
    again = {epoch: times for epoch, times in place.epochs().items() if times > 1}
    assert len(again) <= 2 * 2, "two epochs of two members at most: the one at work, and its write"
    assert sum(place.epochs().values()) - sum(again.values()) + len(again) == 2 * 30 + 4 * 20
    assert leftovers(store.root) == []


@long
def test_a_worker_that_comes_late_takes_part(place, store, tmp_path):
    """It is asked, and gets tasks that the first has not begun."""
    runs = [Run.dense(small(epochs=8, batch_size=batch), seed=0) for batch in range(20, 32)]
    place.worker(pause=0.3)
    late_code = WATCHED.format(log=str(tmp_path / "late"), pause=0)
    late = soon(lambda: len(place.epochs()) > 4, lambda: place.worker(before=late_code))
    same_table(there(runs, store, place.address), expected(runs, tmp_path / "here")[0])
    late.join()
    mine = (tmp_path / "late").read_text().split("\n")
    assert len(mine) > 8, "the late worker trained whole runs"


CLIENT = """
import sys
sys.path[:0] = [{home!r}, {tests!r}]
from support import *
runs = family(small(epochs=30, sparse_epochs=20), seeds=(0, 1))
sweep.carry_out(runs, store=Store({root!r}), progress=False, cluster={cluster!r})
"""


@long
@pytest.mark.parametrize("local", [False, True], ids=["scheduler", "local"])
def test_a_killed_client_costs_nothing_finished(local, place, store, tmp_path):
    """The same call goes on, be the workers still there, or gone with it."""
    runs = long_runs()
    table, reference = expected(runs, tmp_path / "here")
    place.worker(pause=0.2)
    where = "local:1" if local else place.address
    code = CLIENT.format(
        home=str(files.HOME), tests=str(files.HOME / "tests"), root=str(store.root), cluster=where
    )
    client = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 120
    finished = store.root / "finished"
    while not (any(finished.rglob("*.safetensors")) or client.poll() or time.monotonic() > end):
        time.sleep(0.05)
    client.kill()
    assert client.wait() in (-signal.SIGKILL, 0)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    assert before, "nothing was finished: the test shows nothing"
    same_table(there(runs, store, place.address), table)
    same_results(runs, store, reference)
    assert before.items() <= {p: p.stat().st_mtime_ns for p in finished.rglob("*")}.items()
    if not local:
        assert max(place.epochs().values()) == 1, "the worker went on, and nothing was done twice"


@long
def test_a_scheduler_that_dies_costs_nothing_finished(place, store, tmp_path):
    """It is said; on another one the same call goes on."""
    runs = long_runs()
    place.worker(pause=0.2)
    dies = soon(lambda: any(store.root.rglob("finished/*/*")), place.scheduler.kill)
    with pytest.raises(clusters.ClusterError, match="scheduler is gone"):
        there(runs, store, place.address)
    dies.join()
    old = place.address
    place.address = place.schedule()
    place.worker()
    same_table(there(runs, store, place.address), expected(runs, tmp_path / "here")[0])
    clusters._clients.pop(old).close()
    assert leftovers(store.root) == []


@long
def test_strangers_are_refused_by_name(place, store, tmp_path):
    """Another source of the library, another torch, and one that has no library at all; alone, and
    beside one that may."""
    home = tmp_path / "edited"
    shutil.copytree(files.HOME / "lib", home / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    (home / "lib" / "rng.py").open("a").write("# edited\n")
    (home / "pyproject.toml").touch()
    place.stranger(home)
    place.worker(before="import torch\ntorch.__version__ = '1.0.0'\n")
    place.worker(before="import sys\nsys.modules['lib.runs.cluster'] = None\n")
    runs = [Run.dense(small(epochs=1), seed=0)]
    client = clusters._client(place.address)
    client.wait_for_workers(3, timeout=120)
    with (
        pytest.warns(UserWarning, match="is refused") as said,
        pytest.raises(clusters.ClusterError, match="all workers are refused"),
    ):
        there(runs, store, place.address)
    text = "\n".join(str(each.message) for each in said)
    assert f", not {clusters.versions()['library']}" in text
    assert "its torch is 1.0.0, not" in text
    assert "ModuleNotFoundError" in text
    assert not any(store.root.rglob("*.safetensors"))
    place.worker()
    client.wait_for_workers(4, timeout=120)
    with pytest.warns(UserWarning, match="is refused"):
        same_table(there(runs, store, place.address), expected(runs, tmp_path / "here")[0])


@long
def test_a_folder_that_is_not_shared_is_refused(place, store, tmp_path):
    """A worker that has another folder in the place of the store is named, with the folder."""
    prefix = namespace()
    if prefix is None:
        pytest.skip("this system lets us mount nothing")
    store.root.mkdir()
    shell = 'mount -t tmpfs tmpfs "$1" && shift && exec "$@"'
    place.stranger(prefix=[*prefix, "sh", "-c", shell, "sh", str(store.root)])
    runs = [Run.dense(small(epochs=1), seed=0)]
    with (
        pytest.warns(UserWarning, match="worker tcp://.* is refused"),
        pytest.raises(clusters.ClusterError, match=f"must see the run store {store.root}"),
    ):
        there(runs, store, place.address)
    place.worker()
    clusters._client(place.address).wait_for_workers(2, timeout=120)
    with pytest.warns(UserWarning, match="is refused"):
        same_table(there(runs, store, place.address), expected(runs, tmp_path / "here")[0])


@long
def test_a_task_that_fails_is_reported_once(place, store, tmp_path):
    """Out of memory, by an error or by the system's killer: the others are done, what needs it is
    not begun, and nothing loops. Runs that diverge are no failure."""
    fails = """
from lib.training import loop
real = loop.Training.run_epoch
def failing(self, *arguments):
    if self.members[0].run.recipe.batch_size == 20:
        raise MemoryError("no room for 20")
    if self.members[0].run.recipe.batch_size == 21:
        import os
        os._exit(9)
    real(self, *arguments)
loop.Training.run_epoch = failing
"""
    runs = [Run.dense(small(epochs=2, batch_size=batch), seed=0) for batch in (20, 21, 22)]
    runs += [finetune(run, sparsity=0.5) for run in runs]
    runs += [Run.dense(small(epochs=2, batch_size=23, lr=1e20), seed=0)]
    for _ in range(7):
        place.worker(before=fails)
    with (
        pytest.warns(UserWarning, match="failed: sol_d, mlp, 1 from seed 0"),
        pytest.raises(clusters.ClusterError) as caught,
    ):
        there(runs, store, place.address)
    said = str(caught.value)
    assert said.startswith("2 of 7 tasks failed, 2 that need them were not begun")
    assert "MemoryError('no room for 20')" in said
    assert "RuntimeError('its worker died')" in said
    done = [runs[2], runs[5], runs[6]]
    assert [store.has(run.key) for run in runs] == [run in done for run in runs]
    table = results.tabulate(done, store).groupby("key", sort=False)
    assert table["diverged"].first().tolist() == [False, False, True]


# -- how long it takes -----------------------------------------------------------------------------


@long
def test_two_milliseconds_a_run(place, store):
    """10,000 runs that train nothing: what the cluster adds to the same plan carried out here."""
    runs = [Run.dense(small(epochs=0, widths=[2]), seed=seed) for seed in range(10_000)]
    for _ in range(2):
        place.worker(before="pass")
    clusters._client(place.address).wait_for_workers(2, timeout=120)
    begin = time.process_time()
    there(runs, store, place.address)
    first = time.process_time() - begin
    begin = time.process_time()
    there(runs, store, place.address)
    looked = time.process_time() - begin
    assert (first - looked) / len(runs) < 2e-3


@long
def test_ten_thousand_finished_runs(tmp_path):
    """Planning, looking up and tabulating LeNet-300-100: ten seconds of a processor. The weights
    lie in holes of the files: nobody is to read them."""
    setup = small(network="lenet-300-100", epochs=2, sparse_epochs=2, train_examples=64)
    one, store = Store(tmp_path / "one"), Store(tmp_path / "many")
    kinds = family(setup, seeds=(0,))[:2]
    carry_out(kinds, one)
    raw = [one.path(run.key).read_bytes() for run in kinds]

    def plan():
        dense = [Run.dense(setup, seed=seed) for seed in range(2_000)]
        return dense + [finetune(d, sparsity=s) for d in dense for s in (0.5, 0.8, 0.9, 0.95)]

    for run in plan():
        whole = raw[run.parent is not None]
        size = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + size])
        text = json.loads(header["__metadata__"]["text"])
        text = json.dumps({**text, "specification": run.specification})
        sha = hashlib.sha256(text.encode()).hexdigest()
        header["__metadata__"] |= {"text": text, "sha256": sha}
        content = json.dumps(header).encode()
        store.path(run.key).parent.mkdir(parents=True, exist_ok=True)
        with open(store.path(run.key), "wb") as file:
            file.write(len(content).to_bytes(8, "little") + content)
            file.truncate(len(whole) - size + len(content))
    begin = time.process_time()
    runs = plan()
    results.cost(runs, store)
    table = carry_out(runs, store)
    seconds = time.process_time() - begin
    assert table["key"].nunique() == 10_000
    assert seconds < 10, f"{seconds:.1f} s"
