"""Which function answers which question or command to a simulated device: each subject's file enters its own here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sip.manscdp import Body, DeviceControl

if TYPE_CHECKING:
    from simulator.device import SimulatedDevice

Maker = Callable[["SimulatedDevice", Any], list[Body]]
"""Takes the device and the question; returns the answer in its parts, none for what is not answered."""
Doer = Callable[["SimulatedDevice", DeviceControl], str]
"""Carries out one sub-command of DeviceControl; returns OK or ERROR."""

MAKERS: dict[type[Body], Maker] = {}
DOERS: dict[str, Doer] = {}
"""By the field of DeviceControl that holds the command."""

M = TypeVar("M", bound=Maker)
D = TypeVar("D", bound=Doer)


def answers(model: type[Body]) -> Callable[[M], M]:
    """Enter a function as the one that answers bodies of this model."""

    def enter(maker: M) -> M:
        MAKERS[model] = maker
        return maker

    return enter


def carries_out(field: str) -> Callable[[D], D]:
    """Enter a function as the one that carries out this sub-command."""
    if field not in DeviceControl.model_fields:
        raise ValueError(f"DeviceControl has no {field}")

    def enter(doer: D) -> D:
        DOERS[field] = doer
        return doer

    return enter
