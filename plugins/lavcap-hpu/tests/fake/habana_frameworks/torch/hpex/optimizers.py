"""The fused optimiser; the real one counts its steps per group."""

import torch

import habana_frameworks


class FusedAdamW(torch.optim.Optimizer):
    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, bias_correction=True, moments_dtype=None
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        habana_frameworks.calls.append("FusedAdamW.step")
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter, group):
        state = self.state[parameter]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        first, second = group["betas"]
        state["exp_avg"].lerp_(parameter.grad, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        mean = state["exp_avg"] / (1 - first ** group["step"])
        spread = (state["exp_avg_sq"] / (1 - second ** group["step"])).sqrt() + group["eps"]
        parameter.sub_(group["lr"] * mean / spread)
