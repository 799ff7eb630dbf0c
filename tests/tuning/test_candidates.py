"""What a restart costs, and that the cheap one is taken first."""

import pytest

from harness.tuning.candidates import CACHE, COMPILE, PARALLEL, SAME, cheapest_order, restart_class

BASE = {"max_num_seqs": 64, "gpu_memory_utilization": 0.9, "tensor_parallel_size": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, SAME),
        ({"gpu_memory_utilization": 0.8}, CACHE),
        ({"max_num_seqs": 32}, COMPILE),
        ({"max_num_seqs": 32, "gpu_memory_utilization": 0.8}, COMPILE),
        ({"tensor_parallel_size": 2, "max_num_seqs": 32}, PARALLEL),
    ],
)
def test_the_dearest_change_decides(change, expected):
    """What enters the compile hash makes graphs anew; the layout makes all anew."""
    assert restart_class(BASE, {**BASE, **change}) == expected


def test_configurations_that_share_graphs_come_together():
    """Each next one is the cheapest from where one is; among equals the earlier."""
    points = [
        {"max_num_seqs": 32},
        {"gpu_memory_utilization": 0.8},
        {"max_num_seqs": 32, "gpu_memory_utilization": 0.7},
    ]
    found = cheapest_order(points, lambda point: {**BASE, **point}, BASE)

    assert found == [points[1], points[0], points[2]]
