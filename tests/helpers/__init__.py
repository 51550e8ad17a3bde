"""What several tests share: re-implementations, and estimators for scikit-learn's suites."""
