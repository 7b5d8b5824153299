"""Features on a Ray cluster: the same as without; examples of docs/features.md."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from click.testing import CliRunner
from pyarrow import parquet

from skipae import ImageError, ModelError, UsageError, cli, from_pretrained
from skipae.batch.feature_store import Store
from skipae.batch.pipeline import Outcome
from skipae.checkpoints.resolve import DEFAULT_OF_FEATURES
from skipae.integrations import ray as cluster
from skipae.options import FeatureSpec
from skipae_zoo import FEATURES, read_config
from test_cli_features import manifest, photos

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")  # of its own defaults


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def two_cores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of this machine, for two workers; the folder that they are in."""
    place = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # by default workers give way to all else
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield place
        ray.shutdown()


def test_two_workers_give_what_the_command_gives(
    two_cores: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watched(cluster._Worker):
        """Notes its process, and waits until two took part."""

        def __call__(self, table: Any) -> Any:
            (tmp_path / f"{os.getpid()}.worker").touch()
            end = time.monotonic() + 120
            while len(list(tmp_path.glob("*.worker"))) < 2 and time.monotonic() < end:
                time.sleep(0.05)
            return super().__call__(table)

    paths = photos(40, (12, 9), (10, 13))
    bad, undecodable = "in/007.png", "in/\udce9.png"
    Path(bad).write_bytes(Path(bad).read_bytes()[:60])
    Path(paths[0]).rename(undecodable)
    monkeypatch.setattr(cluster, "_Worker", Watched)
    outcome = cluster.extract(
        ["in", "none.png"],
        "out",
        str(checkpoint),
        layers=["enc2", "enc1"],
        pool="spatial:2",
        format="parquet",
        batch_size=2,
        shard_size=15,
        workers=2,
    )
    workers = {int(path.stem) for path in tmp_path.glob("*.worker")}
    assert len(workers) == 2 and os.getpid() not in workers
    assert (outcome.done, outcome.failed, outcome.unread) == (39, 2, 2)

    words = ["in", "--model", str(checkpoint), "--device", "cpu", "--layer", "enc2,enc1", "--pool", "spatial:2"]
    plain = CliRunner().invoke(cli.main, ["features", *words, "-o", "plain", "--format", "parquet"])
    assert plain.exit_code == 1, plain.stderr
    found, expected = (parquet.read_table(place).sort_by("file") for place in ("out", "plain"))
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.column("file").equals(expected.column("file")) and len(found) == 39
    for layer in ("enc2", "enc1"):
        values, wanted = (np.asarray(table.column(layer).combine_chunks().flatten()) for table in (found, expected))
        np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-5)
        assert values.std() > 0.01

    lines, plain_lines = manifest(), manifest("plain/_manifest.jsonl")
    versions = lines[0]["run"].pop("versions")
    assert (
        versions == plain_lines[0]["run"].pop("versions") | {"device": "cpu (1 thread)"} and lines[0] == plain_lines[0]
    )
    errors = {line["file"]: line["error"] for line in lines if "error" in line}
    assert errors.pop("none.png") == "no such file"
    assert errors == {line["file"]: line["error"] for line in plain_lines if "error" in line} and list(errors) == [bad]
    for these in (lines, plain_lines):
        digests = {line["file"]: line["sha256"] for line in these if "row" in line}
        assert digests == {f: hashlib.sha256(Path(f).read_bytes()).hexdigest() for f in digests} and len(digests) == 39
    assert [line["rows"] for line in lines if "rows" in line] == [15, 15, 9]
    for line in lines:
        if "row" in line:
            name = parquet.read_table(f"out/{line['shard']}").column("file")[line["row"]].as_py()
            assert name == line["file"].encode(errors="backslashreplace").decode()

    # Each can resume a run of the other.
    photos(1, into="later")
    Path("later/000.png").replace(bad)
    resumed = CliRunner().invoke(cli.main, ["features", *words, "-o", "out", "--format", "parquet", "--resume"])
    assert (resumed.exit_code, len(parquet.read_table("out"))) == (0, 40)
    options: dict[str, Any] = {"layers": ["enc2", "enc1"], "pool": "spatial:2", "format": "parquet"}
    assert cluster.extract("in", "out", str(checkpoint), resume=True, **options).done == 40


def test_examples(two_cores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two_cores)
    page = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- runs in tests/test_cluster.py -->\n```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    paths = photos(3, (40, 33), into="photos")
    monkeypatch.setattr(ray, "init", lambda: None)
    names: dict[str, Any] = {}
    for code in blocks:
        exec(code, names)
    assert (names["outcome"].done, names["outcome"].failed) == (3, 0)
    expected = from_pretrained(DEFAULT_OF_FEATURES, device="cpu", threads=1).features(paths, layers=["enc4", "enc12"])
    table = parquet.read_table("table").sort_by("file")
    assert table.column("file").to_pylist() == paths
    found = np.stack(table.column("enc12").to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(found, expected["enc12"], rtol=0, atol=1e-5)
    with np.load("vectors.npz") as arrays:
        order = np.argsort(arrays["files"])
        assert [Path(arrays["files"][k]).name for k in order] == [Path(path).name for path in paths]
        np.testing.assert_allclose(arrays["enc4"][order], expected["enc4"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"workers": 2},
            "workers=2 with cpus=1 take all 2 cores of the cluster, .*; use workers=1 or fewer, or sources.m",
        ),
        (
            {"cpus": 2},
            "workers=1 with cpus=2 take all 2 cores of the cluster, .*; use fewer cpus, or sources.materialize",
        ),
    ],
)
def test_workers_that_leave_no_core_to_read_a_data_set_are_refused(
    two_cores: Path, checkpoint: Path, options: dict[str, Any], message: str
) -> None:
    """They would wait for each other without end."""
    photos(1, into="photos")
    dataset = ray.data.read_binary_files("photos", include_paths=True)
    with pytest.raises(UsageError, match=message):
        cluster.extract(dataset, "out", str(checkpoint), **options)
    assert not Path("out").exists()


def test_a_data_set_in_memory_may_have_workers_on_all_cores(two_cores: Path) -> None:
    cluster._leave_a_core(ray.data.from_items([{"path": "a.png"}]), workers=2, cpus=1)


def worker(folder: Path, **changes: Any) -> cluster._Worker:
    config = read_config(folder)
    fields: dict[str, Any] = {
        "model": str(folder),
        "checkpoint": config.files[FEATURES],
        "spec": FeatureSpec().resolve(config),
        "batch_size": None,
        "device": "cpu",
        "threads": 1,
        "folder": Path(),
        "done": set(),
        "max_pixels": 1000,
    }
    return cluster._Worker(**(fields | changes))


def ask(asked: cluster._Worker, **columns: Any) -> Any:
    return pickle.loads(asked(pa.table(columns)).column("answer")[0].as_py())


def test_a_worker(checkpoint: Path) -> None:
    paths = photos(3, (8, 8), (8, 8), (5, 5))
    contents = [Path(path).read_bytes() for path in paths]
    names = [f"bucket/{k}" for k in range(5)]
    spec = FeatureSpec(crop=8).resolve(read_config(checkpoint))
    asked = worker(checkpoint, done={"bucket/1"}, spec=spec)
    versions, rows, left_out = ask(asked, path=names, bytes=[*contents, b"text", None], label=[0] * 5)
    assert left_out == 1 and versions["device"] == "cpu (1 thread)"
    found = {entry["file"]: (entry.get("sha256"), values) for entry, values in rows}
    assert list(found) == ["bucket/2", "bucket/3", "bucket/4", "bucket/0"]
    assert [found[f"bucket/{k}"][0] for k in (0, 2)] == [hashlib.sha256(contents[k]).hexdigest() for k in (0, 2)]
    expected = from_pretrained(checkpoint, device="cpu").features(paths[0])["enc2"][0]
    np.testing.assert_allclose(found["bucket/0"][1]["enc2"], expected, rtol=0, atol=1e-6)
    assert str(found["bucket/2"][1]) == "is 5 x 5 pixels, less than the crop of 8; use a larger resize"
    assert found["bucket/3"][0] is None and "not a supported image" in str(found["bucket/3"][1])
    assert "more than 63; use a larger max_pixels" in str(
        ask(worker(checkpoint, max_pixels=63), path=["a"], bytes=contents[:1])[1][0][1]
    )
    assert found["bucket/4"][0] is None and str(found["bucket/4"][1]) == "no such file"  # the path, without bytes


def test_what_ends_the_run(checkpoint: Path, tmp_path: Path) -> None:
    answer = ask(worker(checkpoint), name=["a"], image=[b""])
    assert isinstance(answer, UsageError) and "sources has the columns name, image, but needs path" in str(answer)
    answer = ask(worker(checkpoint, checkpoint="0" * 64), path=["a.png"])
    assert isinstance(answer, ModelError) and "differs from the one where the run was started" in str(answer)
    store = Store("out", {"layers": ["enc2"]})
    outcome = Outcome()
    entry, values = {"file": "a", "sha256": "0"}, {"enc2": np.zeros(4, np.float32)}
    with pytest.raises(ModelError):
        cluster._write([({}, [(entry, values)], 0), answer], store, outcome, None)
    assert outcome.done == 1 and manifest()[-1]["rows"] == 1  # what came before is kept


def test_a_shard_has_one_shape(checkpoint: Path) -> None:
    paths = photos(9, (8, 8), (5, 7))
    spec = FeatureSpec(pool="none").resolve(read_config(checkpoint))
    answer = ask(worker(checkpoint, spec=spec), path=[os.fsencode(path) for path in paths])
    store = Store("out", {"layers": ["enc2"]})
    outcome = Outcome()
    cluster._write([answer, ({}, [({"file": "b"}, ImageError("no"))], 2)], store, outcome, 6)
    shards: dict[str, set[int]] = {}
    for line in manifest():
        if "row" in line:
            shards.setdefault(line["shard"], set()).add(int(Path(line["file"]).stem) % 2)
    assert len(shards) == 4 and all(len(shapes) == 1 for shapes in shards.values())
    assert (outcome.done, outcome.failed, outcome.unread) == (11, 1, 1)
    assert {"file": "b", "error": "no"} in manifest()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("in", {"layers": "enc3"}, "no layer 'enc3'"),
        ("in", {"workers": 0}, "workers must be at least 1, not 0"),
        ("in", {"max_pixels": 0}, "max_pixels must be at least 1, not 0"),
        ("in", {"batch_size": 1.5}, "batch_size must be a whole number, not 1.5"),
        ("in", {"workers": "2"}, "workers must be a whole number, not '2'"),
        ("in", {"max_pixels": None}, "max_pixels must be at least 1, not None"),
        ("in", {"gpus": "1"}, "gpus must be a number of at least 0, not '1'"),
        ("in", {"gpus": -1}, "gpus must be a number of at least 0, not -1"),
        ("in", {"format": "csv"}, "format must be npz, npy, safetensors, parquet, hdf5, not 'csv'"),
        ("-", {}, "a cluster cannot see"),
        (7, {}, "sources must be paths or a Ray data set, not int"),
        ([], {}, "no input"),
    ],
)
def test_wrong_arguments(checkpoint: Path, source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cluster.extract(source, "out", str(checkpoint), **options)
    assert not Path("out").exists()


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "skipae.integrations.ray")
    with pytest.raises(ImportError, match=r'needs Ray Data \(.*\): pip install ".*\[ray\]"'):
        import skipae.integrations.ray  # noqa: F401
