"""alibi-detect's own statistic over a stream: runs in its virtual environment, on the arrays of an npz file.

In: reference [m, d], stream [n, d], window. Out: statistic [n], that of MMDDriftOnline after each request.
"""

import sys

import numpy as np
from alibi_detect.cd import MMDDriftOnline


def main(source: str, target: str) -> None:
    given = np.load(source)
    # Its thresholds are not used, so they need no care.
    detector = MMDDriftOnline(
        given["reference"],
        ert=150,
        window_size=int(given["window"]),
        backend="pytorch",
        n_bootstraps=2_000,
        verbose=False,
    )
    np.save(target, np.array([detector.score(row) for row in given["stream"]]))


if __name__ == "__main__":
    main(*sys.argv[1:])
