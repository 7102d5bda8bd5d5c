"""Matrix products of a CPU by oneDNN.

`F.linear` takes MKL's float32 products, which need twice the time of oneDNN's on some AMD
processors (docs/measurements.md).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEW_MULTIPLICATIONS = 400_000  # of a product that takes less time than oneDNN's call itself


def is_onednn(tensor: Tensor) -> bool:
    """Whether oneDNN multiplies such a tensor (not under `torch.backends.mkldnn.flags(False)`)."""
    if torch.compiler.is_compiling():  # the compiler chooses by itself
        return False
    is_cpu_float = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    is_enabled = bool(torch.backends.mkldnn.enabled) and torch.backends.mkldnn.is_available()
    return is_cpu_float and is_enabled


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
    if input.numel() // input.shape[-1] * weight.numel() <= FEW_MULTIPLICATIONS:
        output = F.linear(input, weight, bias)
        return output.relu_() if relu else output
    activation = "relu" if relu else "none"
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
        ctx.save_for_backward(*outputs, *parameters[::2])
        return outputs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.saved_tensors) // 2
        outputs, weights = ctx.saved_tensors[: count + 1], ctx.saved_tensors[count + 1 :]
        needs_input, *needs_parameter = ctx.needs_input_grad
        by_parameter: list[Tensor | None] = [None] * (2 * count)
        for i in reversed(range(count)):
            if i + 1 < count:
                gradient = torch.ops.aten.threshold_backward(gradient, outputs[i + 1], 0)
            rows = gradient.flatten(0, -2)
            if needs_parameter[2 * i]:
                by_parameter[2 * i] = linear(rows.t(), outputs[i].flatten(0, -2).t(), None)
                by_parameter[2 * i + 1] = rows.sum(0)
            if i or needs_input:
                gradient = linear(gradient, weights[i].t(), None)
        return gradient if needs_input else None, *by_parameter
