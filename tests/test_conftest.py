"""The safety net of the other tests has to hold itself."""

import logging
import os
import random

import numpy as np
import pytest


def test_deprecation_in_the_log_of_transformers_is_caught(deprecations):
    logger = logging.getLogger("transformers.modeling_utils")
    logger.warning("`torch_dtype` is deprecated! Use `dtype` instead!")
    logger.warning("nothing to see")
    found = list(deprecations)
    deprecations.clear()  # this test meant it
    assert found == [
        "transformers.modeling_utils: `torch_dtype` is deprecated! Use `dtype` instead!"
    ]


def test_deprecation_fails_the_test_that_caused_it(pytester, request, deprecations):
    conftest = request.path.with_name("conftest.py").read_text(encoding="utf-8")
    pytester.makeconftest(conftest)
    pytester.makepyfile(
        """
        import logging
        def test_old_call():
            logging.getLogger("transformers.trainer").warning("use_mps_device is deprecated")
        def test_new_call():
            logging.getLogger("transformers.trainer").warning("all is well")
        """
    )
    pytester.runpytest_inprocess("-p", "no:timeout").assert_outcomes(passed=2, errors=1)
    deprecations.clear()  # the inner run logs to the same place


def test_tests_do_not_reach_the_network():
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    assert os.environ["HF_DATASETS_OFFLINE"] == "1"


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_starts_from_the_same_random_state(turn):
    legacy = np.random.RandomState(0)
    assert random.random() == random.Random(0).random()
    assert np.random.rand() == legacy.rand()  # noqa: NPY002
