"""Run a float64 model truly in float64, also where transformers computes in float32."""

import torch
from torch.overrides import TorchFunctionMode


class TrueFloat64(TorchFunctionMode):
    """Turn casts of float64 tensors to float32 into no-ops while the context is open.

    Norms and softmaxes of transformers are computed in float32 whatever the model's dtype, so that
    a comparison in float64 stops at 1e-7. Inside this context it reaches 1e-15. What is made in
    float32 from the start (rotary tables) stays so, equally in a source and in its clone.

    Example:
        >>> x = torch.tensor([1 / 3], dtype=torch.float64)
        >>> with TrueFloat64():
        ...     x.float().dtype
        torch.float64
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        first = args[0] if args else kwargs.get("input")
        if isinstance(first, torch.Tensor) and first.dtype == torch.float64:
            if func is torch.Tensor.float:
                return first
            if func in (torch.Tensor.to, torch.Tensor.type):
                args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        if func is torch.full and "dtype" not in kwargs:  # the smallest number of a float64 mask
            fill = args[1] if len(args) > 1 else kwargs["fill_value"]
            if isinstance(fill, float) and abs(fill) > torch.finfo(torch.float32).max:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)
