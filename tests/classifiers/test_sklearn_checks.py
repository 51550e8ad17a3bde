"""scikit-learn's own check suites, whole and unmodified, with the checks that ran counted."""

import pytest
from helpers.shim import ENCODER, LORA, PROKER, SO, SVD, TIP_ADAPTER_F, TWO_STAGE, ZERO_SHOT
from sklearn.utils.estimator_checks import check_estimator


@pytest.mark.filterwarnings("ignore::skclipsvd.exceptions.BareLabelWarning")
# Of the multi-label checks, whose few equal rows have different labels.
@pytest.mark.filterwarnings("ignore::skclipsvd.exceptions.ConflictingLabelsWarning")
@pytest.mark.parametrize(
    ("estimator", "n_checks"),
    # At least so many under scikit-learn 1.6.1 and 1.9.1.
    [
        (SVD, 71),
        (LORA, 71),
        pytest.param(SO, 71, marks=pytest.mark.slow),
        (ZERO_SHOT, 59),
        (ENCODER, 45),
        (TWO_STAGE, 54),
        (PROKER, 54),
        (TIP_ADAPTER_F, 54),
    ],
    ids=["SVD", "LoRA", "SO", "zero-shot", "encoder", "two-stage", "ProKeR", "Tip-Adapter-F"],
)
def test_whole_suite_through_image_files(estimator, n_checks):
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    by_status = {"passed": [], "failed": [], "skipped": [], "xfail": []}
    for result in results:
        reason = f"{result['check_name']}: {result['exception']!r}"
        by_status[result["status"]].append(reason)
    assert not by_status["failed"], "\n".join(by_status["failed"])
    assert not by_status["xfail"]
    # Only where SCIPY_ARRAY_API is not set in the environment.
    assert all("check_array_api_input" in reason for reason in by_status["skipped"])
    assert len(by_status["passed"]) >= n_checks
