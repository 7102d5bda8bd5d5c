"""Matrix products of a CPU by the faster of two libraries.

PyTorch's own layers take the float32 products of its BLAS (MKL on x86), which need twice the time
of oneDNN's on some AMD processors and less on others (benchmarks/README.md). One measurement
decides. A checkpoint holds the library, so that a run resumes with the same bits.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Library = Literal["BLAS", "oneDNN"]

FEW_MULTIPLICATIONS = 400_000  # of a product that takes less time than oneDNN's call itself
# How much faster oneDNN must be. It is 0.6 to 1.0 times as fast as MKL on one kind of processor and
# 2 times on another; between them, so that noise decides nothing and a run repeats its bits.
SPEED_UP = 1.3

_library: Library | None = None


def library() -> Library:
    """The library of this process's products, measured when first asked for."""
    global _library
    if _library is None:
        _library = _faster_library()
    return _library


def use(name: Library) -> None:
    """Take the products of a library from now on, as a resumed run does."""
    global _library
    _library = name


def applies_to(tensor: Tensor) -> bool:
    """Whether `mlp` takes such a tensor (not under `torch.backends.mkldnn.flags(False)`)."""
    # The compiler chooses by itself, and torch.func takes PyTorch's own layers only.
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    is_cpu_float = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return is_cpu_float and has_onednn()


def has_onednn() -> bool:
    """Whether this build of PyTorch has oneDNN, and it is not turned off."""
    return bool(torch.backends.mkldnn.enabled) and torch.backends.mkldnn.is_available()


@torch.no_grad()
def _faster_library() -> Library:
    """Compare both by a layer of the usual size and the gradient of its weight: 30 ms.

    On one thread, as several that wait for each other beside other programs vary too much.
    """
    if not has_onednn():
        return "BLAS"
    rows, weight, bias = torch.ones(256, 256), torch.ones(256, 256), torch.ones(256)

    def by_blas() -> None:
        F.linear(rows, weight, bias)
        F.linear(rows.t(), rows.t())

    def by_onednn() -> None:
        onednn_linear(rows, weight, bias)
        onednn_linear(rows.t(), rows.t(), None)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = [(_seconds(by_blas), _seconds(by_onednn)) for _ in range(20)]
    torch.set_num_threads(threads)
    blas, onednn = (min(one) for one in zip(*times, strict=True))
    return "oneDNN" if blas > SPEED_UP * onednn else "BLAS"


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def mlp(linears: Sequence[nn.Linear], inputs: Sequence[Tensor]) -> Tensor:
    """Linear layers with ReLU between them, on the concatenation of the inputs.

    Args:
        linears: the first may take several inputs that broadcast (`utils.ConcatLinear`).
        inputs: (..., I) each.
    """
    if all(part.shape[:-1] == inputs[0].shape[:-1] for part in inputs):
        hidden = torch.cat(list(inputs), -1) if len(inputs) > 1 else inputs[0].contiguous()
    else:
        first, *linears = linears
        hidden = first(*inputs).relu_()
    parameters = [p for layer in linears for p in (layer.weight, layer.bias)]
    if torch.is_grad_enabled():
        return Layers.apply(hidden, *parameters)
    return layers(hidden, parameters)[-1]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool = False) -> Tensor:
    """F.linear, then a ReLU if asked to: (..., I), (O, I), (O,) -> (..., O). Has no gradient."""
    is_small = input.numel() // input.shape[-1] * weight.numel() <= FEW_MULTIPLICATIONS
    if not is_small and library() == "oneDNN":
        return onednn_linear(input, weight, bias, "relu" if relu else "none")
    if relu and bias is not None and not is_small:
        rows = torch._addmm_activation(bias, input.flatten(0, -2), weight.t())
        return rows.view(*input.shape[:-1], -1)
    output = F.linear(input, weight, bias)
    return output.relu_() if relu else output


def onednn_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none"
) -> Tensor:
    """F.linear by oneDNN, then the activation, "none" or "relu". Has no gradient."""
    return torch.ops.mkldnn._linear_pointwise(
        without_gaps(input), without_gaps(weight), bias, activation, [], ""
    )


def without_gaps(matrix: Tensor) -> Tensor:
    """A dense copy of a matrix with gaps, as columns of a batch are: oneDNN is slow with gaps."""
    is_dense = matrix.is_contiguous() or matrix.mT.is_contiguous()
    return matrix if is_dense else matrix.contiguous()


def layers(input: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The input and the outputs of all layers; `parameters` alternates weights and biases."""
    outputs = [input]
    for i in range(0, len(parameters), 2):
        is_hidden = i + 2 < len(parameters)
        input = linear(input, parameters[i], parameters[i + 1], relu=is_hidden)
        outputs.append(input)
    return outputs


class Layers(torch.autograd.Function):
    """The last output of `layers`, with its gradients."""

    @staticmethod
    def forward(ctx, input: Tensor, *parameters: Tensor) -> Tensor:
        outputs = layers(input, parameters)
        ctx.save_for_backward(*outputs[:-1], *parameters)
        return outputs[-1]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.saved_tensors) // 3
        outputs, parameters = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        if torch.is_grad_enabled():  # create_graph=True
            return differentiable_gradients(outputs[0], parameters, gradient, ctx.needs_input_grad)
        weights = parameters[::2]
        needs_input, *needs_parameter = ctx.needs_input_grad
        by_parameter: list[Tensor | None] = [None] * (2 * count)
        for i in reversed(range(count)):
            if i + 1 < count:
                gradient = torch.ops.aten.threshold_backward(gradient, outputs[i + 1], 0)
            rows = gradient.flatten(0, -2)
            if needs_parameter[2 * i]:
                by_parameter[2 * i] = linear(rows.t(), outputs[i].flatten(0, -2).t(), None)
            if needs_parameter[2 * i + 1]:
                by_parameter[2 * i + 1] = rows.sum(0)
            if i or needs_input:
                gradient = linear(gradient, weights[i].t(), None)
        return gradient if needs_input else None, *by_parameter


def differentiable_gradients(
    input: Tensor, parameters: Sequence[Tensor], gradient: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients of `layers` at the input and the parameters that need one, with a graph."""
    output = input
    for i in range(0, len(parameters), 2):
        output = F.linear(output.relu() if i else output, parameters[i], parameters[i + 1])
    sources = [
        one for one, is_needed in zip((input, *parameters), needed, strict=True) if is_needed
    ]
    found = iter(torch.autograd.grad(output, sources, gradient, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)
