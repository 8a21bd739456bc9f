"""Weight deltas that are products of small matrices in other ways than a plain LoRA. Knows no layout."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lora.formats.shapes import Shape
from lora.formats.weight_deltas import BaseWeights, LowRankFactors, any_is_zero


@dataclass(frozen=True, slots=True)
class Hadamard:
    """The elementwise product of two plain LoRAs."""

    first: LowRankFactors
    second: LowRankFactors

    @property
    def shape(self) -> Shape:
        """The shape of the layer that it applies to."""
        return self.first.shape

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All four matrices."""
        return *self.first.tensors, *self.second.tensors

    @property
    def is_zero(self) -> bool:
        """Whether one of the matrices is 0."""
        return any_is_zero(self.tensors)

    def rows(self, *ranges: range) -> "Hadamard":
        """These rows of the delta."""
        return Hadamard(self.first.rows(*ranges), self.second.rows(*ranges))

    def resolved(self, base: BaseWeights) -> "Hadamard":  # noqa: ARG002 - of the protocol
        """Itself."""
        return self

    def matrix(self, device: torch.device) -> Tensor:
        """[out, in] fp32."""
        return self.first.matrix(device).mul_(self.second.matrix(device))

    def low_rank(self) -> LowRankFactors:
        """The row-wise and the column-wise Khatri-Rao product, with the product of the ranks: row o of the delta is the
        sum over i, j of up1[o, i] up2[o, j] times (down1[i] * down2[j])."""
        (down1, up1), (down2, up2) = self.first.tensors, self.second.tensors
        rank = len(down1) * len(down2)
        _refuse_rank(rank, at_most=min(self.shape.inputs, self.shape.outputs))
        up = (up1[:, :, None] * up2[:, None, :]).reshape(len(up1), rank)
        return LowRankFactors((down1[:, None, :] * down2[None, :, :]).reshape(rank, -1), up)


@dataclass(frozen=True, slots=True)
class Factor:
    """A matrix, or two matrices and their product."""

    left: Tensor  # [m, k] fp32; or the whole matrix [m, n]
    right: Tensor | None  # [k, n] fp32

    @property
    def shape(self) -> Shape:
        """The shape of the whole matrix, [outputs, inputs]."""
        return Shape(inputs=(self.left if self.right is None else self.right).shape[1], outputs=len(self.left))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """One or two matrices."""
        return (self.left,) if self.right is None else (self.left, self.right)

    def matrix(self, device: torch.device) -> Tensor:
        """[m, n] fp32."""
        left = self.left.to(device)
        return left if self.right is None else left @ self.right.to(device)

    def low_rank(self) -> LowRankFactors:
        """A whole matrix is multiplied by an identity on its shorter side. With the identity on the left, the parts of
        a fused layer share no rows, which keeps their ranks low."""
        if self.right is not None:
            return LowRankFactors(self.right, self.left)
        if self.shape.outputs <= self.shape.inputs:
            return LowRankFactors(self.left, torch.eye(self.shape.outputs))
        return LowRankFactors(torch.eye(self.shape.inputs), self.left)


@dataclass(frozen=True, slots=True)
class Kronecker:
    """Rows of kron(first, second)."""

    first: Factor
    second: Factor
    row_ranges: tuple[range, ...]  # top rows first

    @property
    def shape(self) -> Shape:
        """The shape of the layer that it applies to."""
        return Shape(self.first.shape.inputs * self.second.shape.inputs, sum(map(len, self.row_ranges)))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The matrices of both factors."""
        return *self.first.tensors, *self.second.tensors

    @property
    def is_zero(self) -> bool:
        """Whether one of the matrices is 0."""
        return any_is_zero(self.tensors)

    def rows(self, *ranges: range) -> "Kronecker":
        """These rows of a delta that has all its rows."""
        return Kronecker(self.first, self.second, ranges)

    def resolved(self, base: BaseWeights) -> "Kronecker":  # noqa: ARG002 - of the protocol
        """Itself."""
        return self

    def matrix(self, device: torch.device) -> Tensor:
        """[out, in] fp32: row r is kron of the rows r // m and r % m of the factors, where m is the height of the
        second."""
        height = self.second.shape.outputs
        rows = self._rows(device)
        first, second = self.first.matrix(device)[rows // height], self.second.matrix(device)[rows % height]
        return (first[:, :, None] * second[:, None, :]).reshape(len(rows), -1)

    def low_rank(self) -> LowRankFactors:
        """kron(P Q, R S) = kron(P, R) @ kron(Q, S), with the product of the ranks."""
        first, second = self.first.low_rank(), self.second.low_rank()
        height = self.first.shape.outputs * self.second.shape.outputs  # of the whole layer
        _refuse_rank(len(first.down) * len(second.down), at_most=min(self.shape.inputs, height))
        up = torch.kron(first.up, second.up)[self._rows(first.up.device)]
        used = up.any(dim=0)
        return LowRankFactors(torch.kron(first.down, second.down)[used], up[:, used])

    def _rows(self, device: torch.device) -> Tensor:
        return torch.cat([torch.arange(each.start, each.stop, device=device) for each in self.row_ranges])


@dataclass(frozen=True, slots=True)
class Dense:
    """A whole matrix."""

    weight: Tensor  # [out, in] fp32

    @property
    def shape(self) -> Shape:
        """The shape of the layer that it applies to."""
        return Shape(inputs=self.weight.shape[1], outputs=len(self.weight))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The matrix."""
        return (self.weight,)

    @property
    def is_zero(self) -> bool:
        """Whether all of it is 0."""
        return any_is_zero(self.tensors)

    def rows(self, *ranges: range) -> "Dense":
        """These rows of the delta."""
        return Dense(torch.cat([self.weight[each.start : each.stop] for each in ranges]))

    def resolved(self, base: BaseWeights) -> "Dense":  # noqa: ARG002 - of the protocol
        """Itself."""
        return self

    def matrix(self, device: torch.device) -> Tensor:
        """[out, in] fp32."""
        return self.weight.to(device)

    def low_rank(self) -> LowRankFactors:
        """The matrix and an identity on its shorter side."""
        return Factor(self.weight, None).low_rank()


def _refuse_rank(rank: int, *, at_most: int) -> None:
    if rank > at_most:
        raise ValueError(f"has rank {rank}: expected at most {at_most}, the full rank of the layer")
