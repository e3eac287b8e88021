"""Handwritten digits by scikit-learn's perceptron, with AdamW, one cycle of rates, and an average.

Half-way the model is saved to a file and loaded; optimizer, schedule and average continue. Losses
and learning rates are plotted to sklearn_digits.png.

    python examples/sklearn_digits.py
"""

# Needs: sklearn, matplotlib

from __future__ import annotations

import argparse
import pickle
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn import neural_network
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from cyoptim.sklearn import MLPClassifier

NETWORK = {"hidden_layer_sizes": (128,), "batch_size": 64, "n_iter_no_change": np.inf}
FILE, PICTURE = Path("sklearn_digits.pkl"), Path("sklearn_digits.png")


def main() -> None:
    """Train ours in two halves, and scikit-learn's with its own Adam; compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="10 epochs")
    options = parser.parse_args()
    epochs = 10 if options.quick else options.epochs
    # scikit-learn warns where an epoch's loss still falls; here the schedule says when to end.
    warnings.simplefilter("ignore", ConvergenceWarning)

    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X / 16, y, test_size=0.25, random_state=0, stratify=y
    )
    batches = -(-len(X_train) // 64)
    model = MLPClassifier(
        **NETWORK,
        optimizer="adamw",
        optimizer_params={"weight_decay": 0.05},
        lr_scheduler="OneCycleLR",
        lr_scheduler_params={"max_lr": 0.02, "total_steps": batches * epochs},
        schedule_per="batch",
        clip_norm=1.0,
        weight_averaging=0.99,
        warm_start=True,
        random_state=0,
    )
    model.set_params(max_iter=epochs // 2).fit(X_train, y_train)
    FILE.write_bytes(pickle.dumps(model))
    model = pickle.loads(FILE.read_bytes())
    model.set_params(max_iter=epochs - epochs // 2).fit(X_train, y_train)

    theirs = neural_network.MLPClassifier(**NETWORK, max_iter=epochs, random_state=0)
    theirs.fit(X_train, y_train)
    print(f"of {len(X_test)} images right after {epochs} epochs:")
    print(f"  AdamW, one cycle, average   {model.score(X_test, y_test):.2%}")
    print(f"  scikit-learn's own Adam     {theirs.score(X_test, y_test):.2%}")

    figure, (top, bottom) = plt.subplots(2, sharex=True)
    top.semilogy(model.loss_curve_, label="AdamW, one cycle")
    top.semilogy(theirs.loss_curve_, label="scikit-learn's own Adam")
    top.set_ylabel("loss")
    top.legend()
    bottom.plot(model.lr_curve_)
    bottom.set(xlabel="epoch", ylabel="learning rate")
    figure.savefig(PICTURE)
    print(f"wrote {FILE} and {PICTURE}")


if __name__ == "__main__":
    main()
