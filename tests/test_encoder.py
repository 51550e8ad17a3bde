"""What CLIPEncoder says of classifiers that are not fitted."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skclipsvd import CLIPEncoder, CLIPSVDClassifier, CLIPZeroShotClassifier

MESSAGE = (
    r"CLIPEncoder\(classifier=\.\.\.\): this CLIPSVDClassifier is not fitted\. Fit it first; where "
    r"the encoder is cloned .*, pass classifier=FrozenEstimator\(fitted\)\."
)


def test_a_classifier_that_is_not_fitted_is_named_with_what_to_do(digits):
    encoder = CLIPEncoder(classifier=CLIPSVDClassifier("tiny"))
    with pytest.raises(NotFittedError, match=MESSAGE):
        encoder.fit(digits[0][:2])
    assert not hasattr(encoder, "n_features_out_")


def test_a_clone_forgets_what_its_classifier_learnt_and_a_frozen_one_does_not(digits):
    paths, labels = digits[0][:20], digits[1][:20]
    fitted = CLIPSVDClassifier("tiny", max_steps=1, augment=False).fit(paths, labels)
    with pytest.raises(NotFittedError, match=MESSAGE):
        clone(CLIPEncoder(classifier=fitted)).fit(paths)
    frozen = clone(CLIPEncoder(classifier=FrozenEstimator(fitted))).fit(paths)
    np.testing.assert_array_equal(frozen.transform(paths), fitted.transform(paths))


def test_an_encoder_that_is_not_fitted(digits):
    with pytest.raises(NotFittedError, match="This CLIPEncoder instance is not fitted yet"):
        CLIPEncoder("tiny").transform(digits[0][:2])


def test_without_a_classifier_it_is_the_frozen_tower(digits):
    zero_shot = CLIPZeroShotClassifier("tiny").fit(None, ["a", "b"])
    embeddings = CLIPEncoder("tiny").fit(digits[0][:3]).transform(digits[0][:3])
    np.testing.assert_array_equal(embeddings, zero_shot.transform(digits[0][:3]))
