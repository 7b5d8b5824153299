"""Every table and figure of the paper by one command: runs what is missing, and sets our numbers beside the paper's."""

from __future__ import annotations

import csv
import json
import math
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from skipae_train.corruption import Corruption
from skipae_train.data import DataError
from skipae_train.datasets import COARSE
from skipae_train.evaluate import COMPLETE, complete_mean
from skipae_train.feed import open_set
from skipae_train.finetune import Finetune, finetune, load_finetuned
from skipae_train.loop import Diverged, Machine, Session, load_state, write_json
from skipae_train.networks import AutoEncoder, Network
from skipae_train.plots import figure, grid, to_pixels
from skipae_train.pretrain import Pretrain, centre_crops, load_run, pretrain, restore
from skipae_train.probe import Probe, probe, write_probes
from skipae_train.recipes import finetune_recipe, pretrain_recipe
from skipae_train.recipes.budgets import Budget, cut

Scores = dict[str, Any]
TRIES = (1.0, 3.0, 1 / 3)
"""Factors on a recipe's learning rate of fine-tuning, the best of which a row takes where rows are tuned."""
TUNING = (
    "lr: the best of as many tries for each row that has one, all shown in result.json; on labels held out of those to "
    "train on (of pre-training: PSNR of held-out images after an eighth of the epochs), with the first seed and fold"
)


class Bench:
    """Runs recipes at a budget, each in a folder of its own, where a killed run goes on and a finished one is read."""

    def __init__(
        self, budget: Budget, seeds: int, data: Path, runs: Path, session: Session, pretraining: str = ""
    ) -> None:
        self.budget, self.seeds, self.data, self.runs, self.session = budget, range(seeds), data, runs, session
        self.pretraining = pretraining
        self._tried: dict[tuple[str, str], dict[float, float]] = {}
        self.used: list[Path] = []

    def pretrained(self, name: str, variant: str = "", seed: int = 0, lr: float | None = None) -> Path:
        """The run folder of a pre-training, by the bench's variant of it.  Variants that do not concern it share one.

        ``lr`` is another learning rate than the recipe's; that of SGD is chosen by :meth:`pretraining_tries`.
        """
        both = "+".join(dict.fromkeys(filter(None, f"{self.pretraining}+{variant}".split("+"))))
        plain = pretrain_recipe(name, variant=self.pretraining, budget=self.budget, seed=seed)
        recipe = pretrain_recipe(name, variant=both, budget=self.budget, seed=seed)
        if replace(recipe, name=plain.name) == plain:
            recipe = plain
        if recipe.optimiser == "sgd" and lr is None:
            lr = Cell(tries=self.pretraining_tries(name, variant)).lr
        if lr not in (None, recipe.lr):
            recipe = replace(recipe, lr=lr, name=f"{recipe.name}-lr{lr:g}")
        out = self.folder("pretrain", recipe.name, seed)
        self.pretrain(recipe, out)
        return out

    def finetuned(
        self,
        name: str,
        variant: str = "",
        seed: int = 0,
        fold: int | None = None,
        lr: float | None = None,
        *,
        tuning: bool = False,
    ) -> tuple[Path, Scores]:
        """The run folder of a fine-tuning, its pre-training included, and what the test set says.

        ``lr`` is another learning rate than the recipe's.  A try (``tuning``) is measured on held-out labels instead.
        """
        recipe = finetune_recipe(name, variant=variant, budget=self.budget, seed=seed)
        if fold is not None:
            recipe = replace(recipe, fold=fold, name=f"{recipe.name}-fold{fold}")
        if lr not in (None, recipe.lr):
            recipe = replace(recipe, lr=lr, name=f"{recipe.name}-lr{lr:g}")
        if tuning:
            recipe = replace(recipe, tuning=True, name=f"{recipe.name}-try")
        start = self.pretrained(recipe.start, variant, seed) if recipe.start else None
        out = self.folder("finetune", f"{recipe.name}{self.after if start else ''}", seed)
        return out, self.finetune(recipe, out, start)

    def pretrain(self, recipe: Pretrain, out: Path) -> None:
        """Run a pre-training, or what is left of it."""
        pretrain(recipe, self.data, out, self.session)

    def finetune(self, recipe: Finetune, out: Path, start: Path | None) -> Scores:
        """Run a fine-tuning, or what is left of it."""
        found = finetune(recipe, self.data, out, self.session, start=start)
        if found is None:
            raise AssertionError("a run without stop_at ends with a result")
        return found

    def tries(self, name: str, variant: str) -> dict[float, float]:
        """What held-out labels say of learning rates, :data:`TRIES` times the recipe's, with the first seed and fold.

        0 where the loss diverged.
        """
        recipe, found = finetune_recipe(name, variant=variant, budget=self.budget), {}
        for factor in TRIES[:2] if self.budget == "smoke" else TRIES:
            lr = float(f"{factor * recipe.lr:.3g}")
            try:
                found[lr] = self.finetuned(name, variant, 0, recipe.fold, lr, tuning=True)[1]["value"]
            except Diverged:
                found[lr] = 0.0
        return found

    def pretraining_tries(self, name: str, variant: str) -> dict[float, float]:
        """PSNR in dB of images held out of pre-training, by learning rate, after an eighth of its epochs.

        With the first seed; 0 where the loss diverged.
        """
        if (name, variant) in self._tried:
            return self._tried[name, variant]
        short, found = f"{variant}+eighth", self._tried.setdefault((name, variant), {})
        rate = pretrain_recipe(name, variant=short, budget=self.budget).lr
        for factor in TRIES[:2] if self.budget == "smoke" else TRIES:
            lr = float(f"{factor * rate:.3g}")
            try:
                with (self.pretrained(name, short, lr=lr) / "log.csv").open(newline="") as log:
                    found[lr] = float(list(csv.DictReader(log))[-1]["psnr"])
            except Diverged:
                found[lr] = 0.0
        return found

    def scores(self, name: str, variant: str = "", lr: float | None = None) -> list[Scores]:
        """What the test set says after each seed, and after each fold where the recipe has folds."""
        folds: Sequence[int | None] = [None]
        if finetune_recipe(name).fold is not None:
            folds = range(2 if self.budget == "smoke" else 10)
        return [self.finetuned(name, variant, seed, fold, lr)[1] for seed in self.seeds for fold in folds]

    def psnr(self, name: str, variant: str = "") -> list[float]:
        """PSNR in dB of the pre-trained network on test images, for each seed."""
        return [_psnr(self.pretrained(name, variant, seed)) for seed in self.seeds]

    def network(self, name: str, variant: str = "", seed: int = 0) -> AutoEncoder:
        """A pre-trained network, on the session's device."""
        return load_run(self.pretrained(name, variant, seed))[0].to(self.machine.device)

    def test_images(self, name: str, count: int, variant: str = "", data: str = "") -> Tensor:
        """Centre crops of test images, of the recipe's set or of ``data``, spread over it, uint8 [count, 3, S, S]."""
        epochs = pretrain_recipe(name, variant=variant, budget=self.budget).epochs
        if epochs is None:
            raise ValueError(f"{name} does not train on a set")
        images = open_set(replace(epochs, data=data or epochs.data), self.data, "test")
        return centre_crops(images.subset(torch.linspace(0, len(images) - 1, count).long()), epochs.crop)

    def corruption(self, name: str, variant: str = "") -> Corruption:
        """What a pre-training corrupts images with."""
        return pretrain_recipe(name, variant=variant, budget=self.budget).corruption

    @property
    def after(self) -> str:
        """What the names of runs say of the pre-training that they start from."""
        return f"-after-{self.pretraining}" if self.pretraining else ""

    @cached_property
    def machine(self) -> Machine:
        """Where everything is computed."""
        return self.session.machine()

    def folder(self, kind: str, name: str, seed: int) -> Path:
        """Where a run lies."""
        folder = self.runs / f"{kind}-{name}-{self.budget}-seed{seed}"
        if folder not in self.used:
            self.used.append(folder)
        return folder


@dataclass(frozen=True)
class Cell:
    """A number of the paper, as it is printed there, and ours."""

    paper: str = ""
    values: list[float] = field(default_factory=list)
    tries: dict[float, float] = field(default_factory=dict)
    """What held-out labels said of each learning rate, where it was tuned."""

    @property
    def lr(self) -> float | None:
        """The learning rate that was chosen, the first tried of equal ones."""
        return max(self.tries, key=lambda lr: self.tries[lr]) if self.tries else None

    def ours(self) -> str:
        """Mean and standard deviation."""
        if not self.values:
            return ""
        spread = f" ± {statistics.stdev(self.values):.2f}" if len(self.values) > 1 else ""
        return f"{statistics.mean(self.values):.2f}{spread}"


@dataclass(frozen=True)
class Page:
    """What a result shows: a table, and pictures by file name."""

    columns: Sequence[str] = ()
    rows: Sequence[tuple[str, Sequence[Cell]]] = ()
    pictures: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    missing: Sequence[str] = ()
    """What could not be made, and why."""


@dataclass(frozen=True)
class Result:
    """A table or figure of the paper."""

    title: str
    recipes: tuple[str, ...]
    make: Callable[[Bench], Page]


def reproduce(
    name: str,
    budget: Budget,
    data: Path,
    out: Path,
    runs: Path,
    *,
    seeds: int = 1,
    session: Session = Session(),
    pretraining: str = "",
) -> Path:
    """Make a result in the folder ``out``; returns its ``table.md``.

    ``pretraining`` is a variant that all pre-training takes, beside those of the rows: ``modern``.

    Its runs lie in ``runs``, where other results find those that they share: one that was killed goes on, one that
    has ended is read.  ``out`` receives ``table.md``, ``table.csv``, ``result.json``, ``figure.png`` and ``logs/``
    with the log and the test result of every run.
    """
    if name not in RESULTS:
        raise ValueError(f"there is no result {name!r}: choose one of {', '.join(RESULTS)}")
    result = RESULTS[name]
    bench = Bench(budget, seeds, data, runs, session, pretraining)
    page = result.make(bench)
    if not bench.machine.accelerator.is_main_process:
        return out / "table.md"
    (out / "logs").mkdir(parents=True, exist_ok=True)
    environments = []
    for run in bench.used:
        if not (run / "environment.json").exists():  # a try that diverged before it was saved
            continue
        shutil.copyfile(run / "log.csv", out / "logs" / f"{run.name}.csv")
        if (run / "result.json").exists():  # of a pre-training too, whose PSNR a table may leave out
            shutil.copyfile(run / "result.json", out / "logs" / f"{run.name}.json")
        environments.append(json.loads((run / "environment.json").read_text()))
    options = "".join(
        f" --{option} {value}"
        for option in ("precision", "device", "threads", "accumulate")
        if (value := getattr(session, option)) != getattr(Session, option)
    ) + (f" --pretraining {pretraining}" if pretraining else "")
    facts = {
        "budget": budget,
        "seeds": seeds,
        "hardware": "; ".join(sorted({e["hardware"] for e in environments})),
        "precision": ", ".join(sorted({e["precision"] for e in environments})),
        "hours": round(sum(e["hours"] for e in environments), 2),
        "commit": ", ".join(sorted({c for e in environments for c in e.get("commit", "not recorded").split(", ")})),
        "command": f"skipae-train reproduce {name} --budget {budget} --seeds {seeds} --data DATA{options}",
    }
    if page.missing:
        facts["left out"] = "; ".join(page.missing)
    if page.rows and "figure.png" not in page.pictures:
        page.pictures["figure.png"] = lambda path: _bars(page, path)
    for file, draw in page.pictures.items():
        draw(out / file)
    _write_table(name, result, page, facts, out)
    return out / "table.md"


def _write_table(name: str, result: Result, page: Page, facts: dict[str, Any], out: Path) -> None:
    flat: list[dict[str, Any]] = [
        {
            "row": label,
            "column": column,
            "paper": cell.paper,
            "mean": statistics.mean(cell.values) if cell.values else None,
            "std": statistics.stdev(cell.values) if len(cell.values) > 1 else None,
            "n": len(cell.values),
            "values": cell.values,
            "lr": cell.lr,
            "tries": cell.tries,
        }
        for label, cells in page.rows
        for column, cell in zip(page.columns, cells, strict=True)
        if cell.paper or cell.values
    ]
    with (out / "table.csv").open("w", newline="") as file:
        fields = ["row", "column", "paper", "mean", "std", "n", "values", "lr"]
        writer = csv.DictWriter(file, fields, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "values": " ".join(f"{v:g}" for v in row["values"])} for row in flat)
    lines = [f"# {name}: {result.title}", ""]
    if page.rows:
        tuned = any(cell.tries for _, cells in page.rows for cell in cells)
        heads = [part for c in page.columns for part in (f"{c}: paper", "ours", "n", *(["lr"] if tuned else []))]
        lines += [f"| {' | '.join(['', *heads])} |", "| --- " * (len(heads) + 1) + "|"]
        for label, cells in page.rows:
            parts = [label]
            for cell in cells:
                parts += [cell.paper, cell.ours(), str(len(cell.values) or "")]
                parts += [f"{cell.lr:g}" if cell.lr else ""] if tuned else []
            lines.append(f"| {' | '.join(parts)} |")
        lines += ["", TUNING, ""] if tuned else [""]
    lines += [f"![{file}]({file})" for file in page.pictures]
    lines += ["", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    (out / "table.md").write_text("\n".join(lines), encoding="utf-8")
    write_json(out / "result.json", {"id": name, "title": result.title, **facts, "rows": flat})


def _bars(page: Page, path: Path) -> None:
    made, axes = figure(5.0, 0.5 * len(page.rows) + 1.2, len(page.columns))
    for number, (axis, column) in enumerate(zip(axes, page.columns, strict=True)):
        labels, cells = [row for row, _ in page.rows], [cells[number] for _, cells in page.rows]
        means = [statistics.mean(cell.values) if cell.values else float("nan") for cell in cells]
        spreads = [statistics.stdev(cell.values) if len(cell.values) > 1 else 0.0 for cell in cells]
        axis.barh(labels, means, xerr=spreads, color="tab:blue", label="ours")
        papers = [(float(cell.paper.split("±")[0]), row) for row, cell in zip(labels, cells, strict=True) if cell.paper]
        if papers:
            axis.plot(*zip(*papers, strict=True), "k|", markersize=18, label="paper")
            axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        axis.invert_yaxis()
        axis.set(title=column)
    made.savefig(path, dpi=120, bbox_inches="tight")


def _save(picture: Tensor) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(to_pixels(picture)).save(path)


def _psnr(run: Path) -> float:
    """PSNR in dB of a pre-trained network on test images."""
    return float(json.loads((run / "result.json").read_text())["value"])


RANDOM, HE = "random, N(0, 0.01)", "random, He"
PLAIN, SKIP = "pre-trained without shortcuts", "pre-trained with shortcuts"


def _compare(
    columns: dict[str, str],
    rows: Sequence[tuple[str, str, Sequence[str]]],
    picks: Sequence[Callable[[Scores], float]] = (lambda scores: scores["value"],),
) -> Callable[[Bench], Page]:
    """A table of variants (label, variant, the paper's numbers) by recipes, or by several numbers of one recipe.

    In every row, random initialisation or ours, fine-tuning takes the best learning rate of equally many tries.
    """

    def make(bench: Bench) -> Page:
        table = []
        for label, variant, papers in rows:
            cells = []
            for name in columns.values():
                tuned = Cell(tries=bench.tries(name, variant))
                scores = bench.scores(name, variant, tuned.lr)
                cells += [replace(tuned, values=[v for s in scores if not math.isnan(v := pick(s))]) for pick in picks]
            table.append((label, [replace(c, paper=paper) for c, paper in zip(cells, papers, strict=True)]))
        return Page(tuple(columns), table)

    return make


def _coarse(kind: str) -> Callable[[Scores], float]:
    """Mean average precision over the classes of a coarse class that the set has."""

    def pick(scores: Scores) -> float:
        each = [value for name in COARSE[kind] if (value := scores["classes"].get(name)) is not None]
        return statistics.mean(each) if each else float("nan")

    return pick


def _table5(bench: Bench) -> Page:
    picks = (_coarse("animal"), _coarse("vehicle"), lambda scores: scores["value"])
    rows = (
        (RANDOM, "random", ("67.02", "76.87", "67.11")),
        (HE, "random-he", ("", "", "")),
        ("pre-trained on animals", "from-animal", ("73.04", "79.04", "70.77")),
        ("pre-trained on vehicles", "from-vehicle", ("72.17", "80.00", "70.93")),
    )
    page = _compare({"": "voc07-cls"}, rows, picks)(bench)
    return replace(page, columns=("animal", "vehicle", "all"))


def _restored(bench: Bench, name: str, clean: Tensor, variant: str = "") -> list[Tensor]:
    """Clean, corrupted and restored images, float32 [N, 3, H, W] each."""
    network, corruption = bench.network(name, variant), bench.corruption(name, variant)
    return [torch.cat(c) for c in zip(*restore(network, clean, corruption, bench.machine), strict=True)]


def _fig2(bench: Bench) -> Page:
    lines: list[Tensor] = []
    table = []
    clean = bench.test_images("imagenet", 8)
    for label, variant in (("Gaussian", "gaussian"), ("one big block", "big-block"), ("small blocks", "")):
        lines += _restored(bench, "imagenet", clean, variant)[1 if lines else 0 :]
        table.append((label, [Cell("", bench.psnr("imagenet", variant))]))
    return Page(("PSNR, dB",), table, {"figure.png": _save(grid(lines))})


def _fig3(bench: Bench) -> Page:
    name, blocks = ("cifar10", "+small-blocks") if bench.budget == "paper" else ("cifar10-4k", "")
    variants = {"auto-encoder with shortcuts": blocks.strip("+"), "auto-encoder without": f"no-shortcut{blocks}"}
    rows: list[tuple[str, Sequence[Cell]]] = []
    curves: dict[str, list[Scores]] = {}
    for label in (*variants, "classifier"):
        found = []
        for seed in bench.seeds:
            network: Network
            if label in variants:
                network = bench.network(name, variants[label], seed)
            else:
                network = load_finetuned(bench.finetuned(name, "random+all-labels", seed)[0])[0]
            recipe = cut(Probe(name=f"probe {label}", architecture=network.architecture, seed=seed), bench.budget)
            out = bench.folder("probe", f"{name}-{label.replace(' ', '-')}{bench.after}", seed)
            found.append(probe(recipe, network, bench.data, out, bench.session))
        if label in variants:
            rows.append((label, [Cell("", bench.psnr(name, variants[label])), Cell(), Cell()]))
        curves[label] = []
        for same in zip(*found, strict=True):  # a layer, with each seed
            scores = {key: [layer[key] for layer in same] for key in ("accuracy", "psnr")}
            rows.append((f"{label}, {same[0]['layer']}", [Cell(), *(Cell("", values) for values in scores.values())]))
            means = {key: statistics.mean(values) for key, values in scores.items()}
            curves[label].append({"layer": same[0]["layer"], **means})

    def draw(path: Path) -> None:
        write_probes(path.with_suffix(""), curves)

    columns = ("PSNR of its own reconstruction, dB", "accuracy of a probe, %", "PSNR of a probe, dB")
    return Page(columns, rows, {"figure.png": draw})


def _fig4(bench: Bench) -> Page:
    name = "voc12-seg" if (bench.data / "VOCdevkit" / "VOC2012").is_dir() else "camvid-seg"
    labels = (
        ("random", RANDOM),
        ("random-he", HE),
        ("encoder-only+new-he", "encoder pre-trained, rest He"),  # as the row above, but for what is taken over
        ("new-he", "encoder and decoder, rest He"),
    )
    picks: list[Callable[[Scores], float]] = [lambda scores: scores["value"]]
    columns = [f"mean IoU, {name}"]
    if name == "voc12-seg":
        picks.append(lambda scores: complete_mean(scores["classes"]) or float("nan"))
        columns.append(f"mean IoU of the {len(COMPLETE)} complete classes")
    rows = [(label, variant, [""] * len(picks)) for variant, label in labels]
    return replace(_compare({"": name}, rows, picks)(bench), columns=columns)


def _maps(network: Network, images: Tensor) -> list[Tensor]:
    """The 12th layer after ReLU (the last, if there are fewer): the mean of its channels, and one that varies most."""
    names = [layer.name for layer in network.architecture.layers]
    with torch.inference_mode():
        layer = network.eval().features(images.to(network.mean.device))[names[min(11, len(names) - 1)]]
    strongest = layer.amax((2, 3)).std(0).argmax()
    found = []
    for plane in (layer.mean(1, keepdim=True), layer[:, strongest : strongest + 1]):
        plane = plane / plane.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
        found.append(F.interpolate(plane, images.shape[-2:]).expand(-1, 3, -1, -1))
    return found


def _fig5(bench: Bench) -> Page:
    kinds = ("imagenet-animal", "imagenet-vehicle")
    images = torch.cat([bench.test_images(kind, 4) for kind in kinds]).float() / 255
    lines = [images, *(plane for kind in kinds for plane in _maps(bench.network(kind), images))]
    return Page(pictures={"figure.png": _save(grid(lines))})


def _fig6(bench: Bench) -> Page:
    kind = "imagenet-animal"
    clean = bench.test_images(kind, 8).float() / 255
    corrupted = bench.corruption(kind)(clean, torch.Generator().manual_seed(0))
    network = bench.network(kind)
    lines = [clean, *_maps(network, clean), corrupted, *_maps(network, corrupted)]
    return Page(pictures={"figure.png": _save(grid(lines))})


def _supp_c(bench: Bench) -> Page:
    rows = []
    for label, variant in (
        ("ADAM", ""),
        ("SGD with momentum", "sgd"),
        ("ADAM, then SGD in fine-tuning", "sgd-finetune"),
        ("ADAM, weight decay in both phases", "decay"),
        ("ADAM, weight decay in fine-tuning only", "decay-finetune"),
        (RANDOM, "random"),
        (f"{RANDOM}, weight decay", "random+decay"),
        (HE, "random-he"),
        (f"{HE}, weight decay", "random-he+decay"),
        ("Wide-ResNet encoder, ADAM", "wide-resnet"),
        ("Wide-ResNet encoder, SGD with momentum", "wide-resnet+sgd"),
        ("Wide-ResNet encoder, ADAM, weight decay", "wide-resnet+decay"),
    ):
        psnr, size, accuracy = Cell(), Cell(), Cell()
        if not variant.startswith("random"):
            if variant.endswith("sgd"):
                psnr = Cell(tries=bench.pretraining_tries("cifar100", variant))
            runs = [bench.pretrained("cifar100", variant, seed) for seed in bench.seeds]
            psnr, size = replace(psnr, values=list(map(_psnr, runs))), Cell("", list(map(_size, runs)))
        if not variant.startswith("wide-resnet"):
            # SGD's rate has no default that is as good as ADAM's, and depends on the loss.
            accuracy = Cell(tries=bench.tries("cifar100", variant) if "sgd" in variant else {})
            scores = bench.scores("cifar100", variant, accuracy.lr)
            accuracy = replace(accuracy, values=[score["value"] for score in scores])
        rows.append((label, [psnr, size, accuracy]))
    return Page(("PSNR at sigma 30, dB", "root mean square of the kernels x 1000", "accuracy, %"), rows)


def _size(run: Path) -> float:
    """Root mean square of a run's kernels, in thousandths, since tables show two decimals."""
    kernels = [
        value.flatten() for name, value in load_state(run)[0].items() if name.endswith("weight") and value.dim() == 4
    ]
    return 1000 * float(torch.cat(kernels).square().mean().sqrt())


def _supp_d(bench: Bench) -> Page:
    rows, points = [], []
    for label, variant in (
        (SKIP, ""), ("half as long", "half"), ("a quarter", "quarter"), ("an eighth", "eighth"), (PLAIN, "no-shortcut")
    ):  # fmt: skip
        psnr, accuracy = bench.psnr("cifar10-4k", variant), [s["value"] for s in bench.scores("cifar10-4k", variant)]
        rows.append((label, [Cell("", psnr), Cell("", accuracy)]))
        points.append((label, psnr, accuracy))

    def scatter(path: Path) -> None:
        made, (axis,) = figure()
        for label, psnr, accuracy in points:
            axis.plot(psnr, accuracy, "o", label=label)
        axis.set(xlabel="PSNR after pre-training, dB", ylabel="accuracy after fine-tuning, %")
        axis.legend(fontsize=8)
        made.savefig(path, dpi=120)

    pictures: dict[str, Callable[[Path], None]] = {"figure.png": scatter}
    missing = []
    for number, name, data in ((1, "imagenet", "voc07"), (2, "cifar10-4k", "cifar10"), (3, "stl10", "stl10")):
        try:
            lines = _restored(bench, name, bench.test_images(name, 8, data=data))
        except DataError as error:  # the scatter needs CIFAR-10 alone
            missing.append(f"figure {number} of the supplement, since {error}")
            continue
        pictures[f"figure{number}.png"] = _save(grid(lines))
    return Page(("PSNR, dB", "accuracy, %"), rows, pictures, missing)


RESULTS: dict[str, Result] = {
    "fig2": Result("reconstructions of held-out images under three corruptions", ("imagenet",), _fig2),
    "fig3": Result("what each layer's features can classify and reconstruct", ("cifar10", "cifar10-4k"), _fig3),
    "table1": Result(
        "CIFAR-10 and CIFAR-100, test accuracy in %",
        ("cifar10", "cifar100"),
        _compare(
            {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100"},
            (
                (RANDOM, "random", ("93.95", "74.11")),
                (HE, "random-he", ("", "")),
                (PLAIN, "no-shortcut", ("92.07", "70.21")),
                (SKIP, "", ("95.15", "75.41")),
            ),
        ),
    ),
    "table2": Result(
        "CIFAR-10 with 4,000 labels, test accuracy in %",
        ("cifar10-4k",),
        _compare(
            {"accuracy": "cifar10-4k"},
            (
                (RANDOM, "random", ("70.89 ± 0.30",)),
                (HE, "random-he", ("",)),
                (PLAIN, "no-shortcut", ("74.07 ± 0.43",)),
                (SKIP, "", ("80.22 ± 0.37",)),
            ),
        ),
    ),
    "table3": Result(
        "STL-10, test accuracy in % over the folds",
        ("stl10",),
        _compare(
            {"accuracy": "stl10"},
            (
                (RANDOM, "random", ("64.6 ± 0.7",)),
                (HE, "random-he", ("",)),
                (PLAIN, "no-shortcut", ("70.2 ± 0.6",)),
                (SKIP, "", ("75.8 ± 0.5",)),
            ),
        ),
    ),
    "table4": Result(
        "VOC 2007 classification, mean average precision in %",
        ("imagenet", "voc07-cls"),
        _compare(
            {"mAP": "voc07-cls"},
            (
                (RANDOM, "random", ("67.11",)),
                (HE, "random-he", ("",)),
                ("Context Encoder", "context-encoder", ("70.24",)),
                (PLAIN, "no-shortcut", ("69.38",)),
                (SKIP, "", ("71.25",)),
            ),
        ),
    ),
    "table5": Result(
        "VOC 2007 after pre-training on animals or on vehicles, mean average precision in %",
        ("imagenet-animal", "imagenet-vehicle", "voc07-cls"),
        _table5,
    ),
    "fig4": Result(
        "segmentation by what is pre-trained, mean intersection over union in %",
        ("imagenet", "voc12-seg", "camvid-seg"),
        _fig4,
    ),
    "fig5": Result(
        "feature maps of the 12th layer: images, then mean and strongest channel of the animal and the vehicle net",
        ("imagenet-animal", "imagenet-vehicle"),
        _fig5,
    ),
    "fig6": Result("feature maps of the animal net on clean and corrupted images", ("imagenet-animal",), _fig6),
    "suppC": Result("optimisers, weight decay and a Wide-ResNet on CIFAR-100", ("cifar100",), _supp_c),
    "suppD": Result(
        "better reconstruction, better accuracy? And the supplement's reconstructions",
        ("cifar10-4k", "imagenet", "stl10"),
        _supp_d,
    ),
}
