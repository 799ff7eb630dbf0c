"""The verdicts of a comparison: their codes in compare.json, which programs read, and their names for readers."""

from harness.messages import message

BETTER = "better"
WORSE = "worse"
NO_DIFFERENCE = "no difference shown"
UNDETERMINED = "cannot be told"
# Of a whole comparison only.
BOTH = "better and worse"
NOT_JUDGED = "cannot be judged"  # a side is not valid

VERDICTS = {
    BETTER: message("comparison.better"),
    WORSE: message("comparison.worse"),
    NO_DIFFERENCE: message("comparison.no_difference"),
    UNDETERMINED: message("comparison.undetermined"),
}
"""Names of the verdicts on a measure."""
