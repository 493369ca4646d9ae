"""Tables of the page on speed, from what the scripts in ``benchmarks/`` printed.

Times and ratios are rounded to three digits. Threads and CPU are left to the text.
"""

import csv
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "speed"
SHAPES = {
    "challenge_1": "32 × 72 × 500",
    "challenge_2": "16 × 104 × 1000",
    "hbn": "64 × 129 × 200",
}
SIZES = ("(16, 22, 1000)", "(32, 64, 500)")


def _read(name):
    with (RESULTS / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def _digits(value):
    value = float(f"{float(value):.3g}")
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _time(ms):
    ms = float(ms)
    return f"{_digits(ms / 1000)} s" if ms >= 1000 else f"{_digits(ms)} ms"


def _models(chosen):
    rows = sorted(
        _read("speed_up"), key=lambda r: -float(r[f"{SIZES[1]} times faster"])
    )
    sizes = [shape.strip("()").replace(", ", " × ") for shape in SIZES]
    titles = [
        title for size in sizes for title in (f"Original, {size}", "Times faster")
    ]
    yield ["Model", *titles, "Faster parts"]
    for row in rows:
        if chosen(row["model"]):
            cells = [
                show(row[f"{shape} {column}"])
                for shape in SIZES
                for column, show in (("stock ms", _time), ("times faster", _digits))
            ]
            yield [row["model"], *cells, row["by"].replace("masks", "dropout")]


def _small():
    """Rows of EEGNet and EEGNeX by number of channels, 32 windows in training."""
    gains = {
        (r["model"], r["samples"], r["channels"]): r["stock / fast"]
        for r in _read("sizes")
        if r["what"] == "train" and r["windows"] == "32"
    }
    channels = sorted({key[2] for key in gains}, key=int)
    yield ["Model", "Samples", *(f"{n} channels" for n in channels)]
    for model in ("EEGNet", "EEGNeX"):
        for samples in ("125", "250", "500"):
            keys = [(model, samples, n) for n in channels]
            yield [model, samples, *(_digits(gains[key]) for key in keys)]


def _fast_eegnex():
    """Rows of steps, memory and prediction, with a column for each size of windows."""
    yield ["", *SHAPES.values()]
    for title, file, variant, value, ratio, unit in (
        ("Training step", "training_step", "training", "ms per step", "speed-up", ""),
        ("Memory of a step", "memory", "training", "MiB per step", "ratio", "MiB"),
        ("Prediction", "predict", "model", "windows/s", "speed-up", "windows/s"),
    ):
        rows = {(r[variant], r["windows"]): r for r in _read(file)}
        for name in dict.fromkeys(name for name, _ in rows):
            cells = []
            for shape in SHAPES:
                row = rows[name, shape]
                cell = f"{_digits(row[value])} {unit}" if unit else _time(row[value])
                is_fast = name.startswith("Fast")
                cells.append(f"{cell} ({_digits(row[ratio])})" if is_fast else cell)
            yield [f"{title}: {name}", *cells]


def _shared_cores():
    yield ["Training", "Beside", "Without", "With share_cores", "Times faster"]
    for row in _read("busy"):
        times = _time(row["ms without"]), _time(row["ms with share_cores"])
        yield [row["training"], row["beside"], *times, _digits(row["without / with"])]


def _without_machine(name, last):
    """All columns up to the last one that varies, rounded."""
    table = pd.read_csv(RESULTS / f"{name}.csv").loc[:, :last]
    for column in table.select_dtypes(float):
        table[column] = table[column].map(_digits)
    yield [column[0].upper() + column[1:] for column in table]
    yield from table.to_numpy().tolist()


def write_tables(folder, fast):
    """Write the tables as CSV files.

    Parameters
    ----------
    folder : pathlib.Path
        Where to; made if need be.
    fast : collection of str
        Models that have a fast version by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "models": _models(fast.__contains__),
        "other_models": _models(lambda name: name not in fast),
        "small": _small(),
        "fast_eegnex": _fast_eegnex(),
        "shared_cores": _shared_cores(),
        "cross_validation": _without_machine("cross_validation", "speed-up"),
        "family": _without_machine("family", "relative to AdamW"),
        "workers": _without_machine("workers", "speed-up"),
    }
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
