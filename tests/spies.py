"""Knowledge that remembers what is heard, what is made of it, and what is taught."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback

from mmkd.callbacks import DecentralizedCallback
from mmkd.knowledge import Heard, Target


class Spy:
    """What any knowledge derives from first to be watched, once training has begun (see ``Began``)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.forget()

    def forget(self) -> None:
        self.heard: list[Mapping[str, Heard]] = []
        self.hears: list[Any] = []
        self.made: list[dict[str, Target]] = []
        self.taught: list[dict[str, Target]] = []

    def listen(self, heard: Any, hears: Any, own: Any) -> Any:
        self.heard.append(heard)
        self.hears.append(hears.clone())
        self.made.append(super().listen(heard, hears, own))  # type: ignore[misc]
        return self.made[-1]

    def loss(self, predictions: Any, targets: Any) -> Any:
        self.taught.append(dict(targets))
        return super().loss(predictions, targets)  # type: ignore[misc]


class Began(Callback):
    """A spy forgets what it was shown before training began, to see whether its rules have a meaning."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for callback in trainer.callbacks:
            if isinstance(callback, DecentralizedCallback) and isinstance(callback.method.knowledge, Spy):
                callback.method.knowledge.forget()
