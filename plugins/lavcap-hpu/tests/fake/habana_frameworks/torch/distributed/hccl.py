"""Collective communication: here gloo's, under the other name."""

import torch.distributed as dist

import habana_frameworks

habana_frameworks.calls.append("import hccl")


def _create(store, rank, size, timeout):
    return dist.ProcessGroupGloo(store, rank, size, timeout)


dist.Backend.register_backend("hccl", _create, devices=["hpu", "cpu", "privateuseone"])
