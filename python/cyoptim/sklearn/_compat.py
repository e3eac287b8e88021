"""What scikit-learn has not had in all the versions that are supported."""

from __future__ import annotations

from typing import Any

__all__ = ["validate_data"]

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before scikit-learn 1.6

    def validate_data(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        """What was a method of estimators."""
        return estimator._validate_data(*args, **kwargs)
