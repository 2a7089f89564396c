"""`torch.hpu`, and recorded graphs."""

import os

import habana_frameworks

_GRAPHS: list = []


def _lazy_init():
    pass


def is_initialized():
    return True


def _is_in_bad_fork():
    return False


def is_available():
    return device_count() > 0


def device_count():
    return int(os.environ.get("FAKE_GAUDIS", "1"))


def current_device():
    return 0


def get_device_name(device=None):
    return "GAUDI2"


def synchronize(device=None):
    habana_frameworks.calls.append("synchronize")


def manual_seed_all(seed):
    habana_frameworks.calls.append("manual_seed_all")


def get_rng_state(device="hpu"):
    import torch

    return torch.get_rng_state()


def set_rng_state(state, device="hpu"):
    import torch

    torch.set_rng_state(state)


def mem_get_info(device=None):
    return 90 * 2**30, 96 * 2**30


def get_amp_supported_dtype():
    import torch

    return [torch.bfloat16, torch.float16, torch.float32]


def wrap_in_hpu_graph(module, asynchronous=False, disable_tensor_cache=False):
    """Records a module's operations once per shape; from then on, they alone are done again."""
    import emulated

    habana_frameworks.calls.append("wrap_in_hpu_graph")
    forward, graphs = module.forward, {}

    def played(*args, **kwargs):
        given = emulated.tensors((args, kwargs))
        key = tuple((tuple(value.shape), value.dtype) for value in given)
        if key not in graphs:
            habana_frameworks.calls.append("record")
            kept = [value.clone() for value in given]
            args, kwargs = emulated.exchanged((args, kwargs), kept)
            with emulated.capturing() as captured:
                made = forward(*args, **kwargs)
            graphs[key] = kept, captured, made
            return made
        habana_frameworks.calls.append("play")
        kept, captured, made = graphs[key]
        for old, new in zip(kept, given, strict=True):
            old.copy_(new)
        captured.replay()
        return made

    module.forward = played
    return module
