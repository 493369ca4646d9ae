"""Recordings in the format of PhysioNet's "EEG Motor Movement/Imagery Dataset"."""

import numpy as np

FOLDER = "MNE-eegbci-data/files/eegmmidb/1.0.0"  # where MNE puts them
SFREQ = 160
ROWS = {
    "Fc": "531z246", "C": "531z246", "Cp": "531z246", "Fp": "1z2", "Af": "73z48",
    "F": "7531z2468", "Ft": "78", "T": ["7", "8", "9", "10"], "Tp": "78",
    "P": "7531z2468", "Po": "73z48", "O": "1z2", "I": "z",
}  # fmt: skip
CHANNELS = [(row + i).ljust(4, ".") for row, places in ROWS.items() for i in places]


def write_subjects(root, n_subjects, runs, n_trials=15):
    """Write simulated recordings where MNE looks for the real ones.

    The rhythm over the hemisphere opposite to the imagined fist is weaker.
    """
    rng = np.random.default_rng(0)
    for subject in range(1, n_subjects + 1):
        hertz, scale = rng.uniform(9, 13), rng.uniform(0.5, 2)
        for run in runs:
            path = root / FOLDER / f"S{subject:03d}" / f"S{subject:03d}R{run:02d}.edf"
            path.parent.mkdir(parents=True, exist_ok=True)
            names = rng.permutation(np.resize(["T1", "T2"], n_trials))
            trials = [(8.2 * i + 4.2, 4.1, str(name)) for i, name in enumerate(names)]
            rests = [(8.2 * i, 4.2, "T0") for i in range(n_trials)]
            n_times = SFREQ * int(np.ceil(8.2 * n_trials + 0.5))
            microvolts = _simulate(rng, n_times, hertz, trials)
            _write_edf(path, scale * microvolts, sorted(rests + trials))


def _simulate(rng, n_times, hertz, trials):
    data = rng.normal(0, 20, (len(CHANNELS), n_times))
    times = np.arange(n_times) / SFREQ
    for weak, places in {"T1": "246", "T2": "135"}.items():
        amplitude = np.full(n_times, 20.0)
        for onset, duration, name in trials:
            if name == weak:
                amplitude[(times >= onset) & (times < onset + duration)] = 4
        rhythm = amplitude * np.sin(2 * np.pi * hertz * times + rng.uniform(0, 6))
        for channel in (row + i for row in ("Fc", "C", "Cp") for i in places):
            data[CHANNELS.index(channel.ljust(4, "."))] += rhythm
    return data


def _write_edf(path, microvolts, annotations, width=60):
    """Write an EDF+ file with records of one second."""
    n_records = microvolts.shape[1] // SFREQ
    limit, n = 8092, len(CHANNELS) + 1

    def text(size, *values):
        return "".join(str(value).ljust(size) for value in values).encode()

    def every(size, value, of_annotations):
        return text(size, *[value] * (n - 1), of_annotations)

    header = text(8, "0") + text(80, "X X X X", "Startdate 12-AUG-2009 X X X")
    header += text(8, "12.08.09", "16.15.00", 256 * (n + 1)) + text(44, "EDF+C")
    header += text(8, n_records, 1) + text(4, n)
    header += text(16, *CHANNELS, "EDF Annotations") + every(80, "BCI2000", "")
    header += every(8, "uV", "") + every(8, -limit, -1) + every(8, limit, 1)
    header += every(8, -limit, -32768) + every(8, limit, 32767)
    header += every(80, "HP:0Hz LP:0Hz N:0Hz", "") + every(8, SFREQ, width)
    header += every(32, "", "")
    with path.open("wb") as file:
        file.write(header)
        digital = np.clip(np.round(microvolts), -limit, limit).astype("<i2")
        for second in range(n_records):
            file.write(digital[:, second * SFREQ : (second + 1) * SFREQ].tobytes())
            notes = f"+{second}\x14\x14\x00"
            for onset, duration, name in annotations:
                if int(onset) == second:
                    notes += f"+{onset:.1f}\x15{duration}\x14{name}\x14\x00"
            file.write(notes.encode().ljust(2 * width, b"\x00"))
