"""Collective communication: here gloo's, under the other name."""

import torch.distributed as dist

import habana_frameworks

habana_frameworks.calls.append("import hccl")


def _create(store, rank, size, timeout):
    return dist.ProcessGroupGloo(store, rank, size, timeout)


# The real one serves hpu alone; here its numbers are on the CPU by the time that they are sent.
dist.Backend.register_backend("hccl", _create, devices=["hpu", "cpu", "privateuseone"])
