"""Names of the rows of a report that are the same in every report; learned priors bear their config names."""

BASELINES = {"standard_normal": "N(0, I)", "uniform": "uniform"}
"""Priors that nobody learns, by the name of their row, as people call them; each report has one."""
AGGREGATE = "aggregate_draws"
RECONSTRUCTIONS = "reconstructions"
TRAIN_AGAINST_TEST = "train_against_test"
FLOORS = (AGGREGATE, RECONSTRUCTIONS, TRAIN_AGAINST_TEST)
"""Rows that no prior can beat, nearest first: draws from the training aggregate posterior, which every prior that is
fitted afterwards tries to become, and which copies; reconstructions, the best of this decoder; the data themselves."""
TRAINING_AGGREGATE = "training_aggregate"
"""In the surgery: the aggregate posterior of the training images, taken as a prior for test images."""
MOMENT_MATCHED = "moment_matched"
"""Of real latents without images: N(mean, variances), what a shift and a scale of every dimension alone would reach."""
