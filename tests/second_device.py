"""A pretended accelerator for tests on a machine without one: real numbers behind tensors that say they lie elsewhere.

Tensors of the device ``SECOND`` are held by the processor, but mixing them with tensors of the processor is refused as a GPU
refuses it, and inside :meth:`SecondDevice.hot` so is everything for which the host would wait: looking at a number, shapes that
depend on numbers, copies to the host, copies to the device that block.

It is torch's device type ``lazy``: no build of torch computes on it, so nothing slips past this module, and the autograd
engine treats it as it does the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

SECOND = torch.device("lazy")
CPU = torch.device("cpu")
#: Operations whose result the host has to see before it can go on.
LOOKS = {
    "_local_scalar_dense", "nonzero", "nonzero_numpy", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
    "equal", "is_nonzero", "repeat_interleave", "_linalg_check_errors", "bincount",
}  # fmt: skip
COPIES = {"_to_copy", "copy_", "copy"}


class HostWaits(AssertionError):
    """The host would wait for the device."""


class OnSecond(Tensor):
    """A tensor of the second device; ``held`` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnSecond:
        made: OnSecond = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=SECOND,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnSecond(shape={tuple(self.shape)}, dtype={self.dtype})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **options: Any) -> Any:  # type: ignore[override]
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {}, None)


class SecondDevice(TorchDispatchMode):
    """While entered, tensors can be made on ``SECOND`` and moved there and back.

    Attributes:
        looks: how often the host looked at the device, by the name of the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_hot = False
        self.looks: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {}, self)

    @contextmanager
    def hot(self) -> Iterator[None]:
        """Inside, the host may not wait."""
        before, self.is_hot = self.is_hot, True
        try:
            yield
        finally:
            self.is_hot = before

    @contextmanager
    def looking(self) -> Iterator[list[str]]:
        """The names of the operations that make the host wait inside, for a test to count."""
        before, self.looks = self.looks, []
        try:
            yield self.looks
        finally:
            self.looks = before

    def look(self, name: str) -> None:
        self.looks.append(name)
        if self.is_hot:
            raise HostWaits(f"the host waits for the device: {name}")


def compute(func: Any, args: Any, kwargs: dict[str, Any], mode: SecondDevice | None) -> Any:
    """What a call of an operation of torch yields, on the device that its tensors and its ``device`` name."""
    name = func.overloadpacket.__name__
    tensors = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
    here = [each for each in tensors if isinstance(each, OnSecond)]
    wanted = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    away = bool(here) if wanted is None else wanted == SECOND
    if mode is None and (here or away):  # called in a backward pass or a thread, where no mode is entered
        mode = next((each for each in torch.utils._python_dispatch._get_current_dispatch_mode_stack()
                     if isinstance(each, SecondDevice)), None)  # fmt: skip
    if mode is not None and here:
        if name in LOOKS or (name in ("index", "index_put", "index_put_") and _by_booleans(args)):
            mode.look(name)
        if name in COPIES and (not away or not isinstance(args[0], OnSecond)):
            mode.look(f"{name} to the host")
    if mode is not None and away and name in COPIES and any(not isinstance(each, OnSecond) for each in tensors):
        waits = not kwargs.get("non_blocking") and not (name == "copy_" and len(args) > 2 and args[2])
        if waits and any(each.dim() for each in tensors if not isinstance(each, OnSecond)):
            mode.look(f"{name} from pageable memory")
    elif here and name not in COPIES:
        _refuse_mixture(name, tensors)
    answer = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if not away:
        return answer
    known = {id(each.held): each for each in here}
    return tree_map(lambda each: _wrapped(each, known) if isinstance(each, Tensor) else each, answer)


def _refuse_mixture(name: str, tensors: list[Tensor]) -> None:
    """A tensor of the processor may take part only as a number."""
    for each in tensors:
        if not isinstance(each, OnSecond) and each.dim() > 0:
            raise RuntimeError(
                f"expected all tensors to be on the same device: {name} was given one of shape {tuple(each.shape)} on the cpu"
            )


def _by_booleans(args: Any) -> bool:
    return any(isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in args[1])


def _held(value: Any) -> Any:
    if isinstance(value, OnSecond):
        return value.held
    return CPU if isinstance(value, torch.device) and value == SECOND else value


def _wrapped(value: Tensor, known: dict[int, OnSecond]) -> Tensor:
    if id(value) in known:
        return known[id(value)]
    with torch.inference_mode(False):  # a view of a tensor from outside that mode is none of that mode
        return OnSecond(value.resolve_conj().resolve_neg())
