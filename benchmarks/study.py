"""Does SAM help? Models, optimizers and seeds on two real tasks and a simulated one.

Cross-validates {mean predictor, ridge on band power, CompactCNN, EEGNet, EEGNeX,
Deep4Net, SeparableEEGNet} with AdamW and with SAM, and EEGNeX with every optimizer of
SAM's family and, in the regressions, with other radii, in five folds of subjects. The
epoch is chosen on subjects that are held out of the training fold; for EEGNeX on rest
or arithmetic also not at all. FOLDER is PhysioNet's "EEG During Mental Arithmetic
Tasks" (Zyma et al. 2019, https://doi.org/10.3390/data4010014).

A finished cell is kept in a file and not run again, so the study can be stopped at any
time and goes on where it was. When all are there, tables and figures are written.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
from _study_cells import Settings, all_cells, fit_cell, load_tasks
from _study_report import write_report
from joblib import Parallel, delayed

RESULTS = Path(__file__).with_name("results") / "study"


def run_cell(cell, task, settings, folder):
    """Fit a cell and keep it; its file is whole or not there."""
    result = fit_cell(cell, task, settings)
    path = folder / cell.file_name
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **result)
    part.replace(path)
    return cell, result["seconds"]


def check_settings(folder, settings):
    """Refuse to mix cells of different settings."""
    path, now = folder / "settings.json", dataclasses.asdict(settings)
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and (before := json.loads(path.read_text())) != now:
        raise SystemExit(
            f"{folder} holds cells made with {before}, but now the settings are {now};"
            " name another folder with --cells, or go back to those settings"
        )
    path.write_text(json.dumps(now, indent=2) + "\n")


class Progress:
    """Print what is done, and how long the rest will take."""

    def __init__(self, cells, folder, n_jobs):
        self.left = set(cells)
        self.n_cells = len(cells)
        self.n_jobs = n_jobs
        self.start = time.perf_counter()
        self.seconds = {}
        for cell in cells:
            if (folder / cell.file_name).exists():
                with np.load(folder / cell.file_name) as found:
                    self.count(cell, float(found["seconds"]))

    def count(self, cell, seconds):
        """Note that a cell is done."""
        self.left.discard(cell)
        self.seconds.setdefault(_kind(cell), []).append(seconds)

    def remaining(self):
        """Estimate the seconds that are left, from cells of the same kind."""
        means = {kind: np.mean(values) for kind, values in self.seconds.items()}
        unknown = np.mean(list(means.values())) if means else np.nan
        total = sum(means.get(_kind(cell), unknown) for cell in self.left)
        return total / self.n_jobs

    def show(self, cell, seconds):
        """Print a line."""
        n_done = self.n_cells - len(self.left)
        minutes = self.remaining() / 60
        print(
            f"{n_done}/{self.n_cells}, about {minutes:.0f} min left: {cell.task},"
            f" {cell.model}, {cell.optimizer}, fold {cell.fold + 1}, seed {cell.seed}"
            f" ({seconds:.1f} s)",
            flush=True,
        )


def _kind(cell):
    return cell.task, cell.model, cell.optimizer


def run_all(cells, tasks, settings, folder, n_jobs):
    """Run the cells that are missing, on all cores."""
    progress = Progress(cells, folder, n_jobs)
    print(f"{len(progress.left)} of {len(cells)} cells to run, {n_jobs} at a time")
    missing = sorted(progress.left)
    jobs = (
        delayed(run_cell)(cell, tasks[cell.task], settings, folder) for cell in missing
    )
    for cell, seconds in Parallel(n_jobs, return_as="generator_unordered")(jobs):
        progress.count(cell, seconds)
        progress.show(cell, seconds)


def main():
    """Run, then report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="EEGMAT's EDF files and table")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=Settings.max_epochs)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cells", type=Path, default=Path("build/study"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--tasks", nargs="+", help="only these, by their names")
    parser.add_argument("--models", nargs="+", help="only these, by their names")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    args = parser.parse_args()
    # For the workers, or each of them repeats what braindecode's imports warn about.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    settings = Settings(max_epochs=args.epochs)
    check_settings(args.cells, settings)
    tasks = choose("--tasks", load_tasks(args.folder), args.tasks)
    cells = all_cells(tasks, args.seeds, settings.n_splits)
    by_model = {cell.model: None for cell in cells}
    models = choose("--models", by_model, args.models)
    cells = [cell for cell in cells if cell.model in models]
    if (args.tasks or args.models) and args.results == RESULTS:
        parser.error("a part of the study needs --results, not to replace the whole's")
    run_all(cells, tasks, settings, args.cells, args.jobs)
    write_report(cells, tasks, settings, args.cells, args.results, args.resamples)


def choose(option, known, names):
    """Keep what was asked for, everything by default."""
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise SystemExit(f"{option} must be among {list(known)}, got {unknown[0]!r}")
    return {name: known[name] for name in names or known}


if __name__ == "__main__":
    main()
