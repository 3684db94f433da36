"""A Megatron rank of test_layouts.py, which trains and publishes when it is told to: one layout after the other."""

import os
from pathlib import Path
from typing import Any

from tandem_core.job import parse_job
from tandem_trainer.publication import agree_on_publisher
from tandem_trainer.publish import Publisher
from tandem_trainer.trainer import Trainer

from tests.integration.line_worker import answer_requests
from tests.integration.megatron_reference import make_batch


class Rank:
    """The trainer and the publisher of the present layout."""

    trainer: Trainer
    publisher: Publisher

    def handle(self, request: dict[str, Any]) -> Any:
        match request.pop("do"):
            case "start":
                self._start(**request)
            case "train":
                self.trainer.train(make_batch(self.trainer.trained + 1))
            case "publish":
                return self._publish(Path(request["export"]))
            case "close":
                self.publisher.close()
                self.trainer.close()
        return None

    def _start(
        self,
        job: str,
        model: str,
        checkpoints: str,
        port: int,
        ranks_per_pod: int,
        urls: list[str],
        shm_dirs: list[str],
    ) -> None:
        os.environ["MASTER_PORT"] = str(port)
        self.trainer = Trainer(parse_job(job), Path(model), Path(checkpoints))
        self.trainer.warmup(lambda step: make_batch(step), lambda step, loss: None)
        pod = self.trainer.rank // ranks_per_pod
        self.publisher = agree_on_publisher(self.trainer, f"pod-{pod}", urls[pod], Path(shm_dirs[pod]), ranks_per_pod)

    def _publish(self, export: Path) -> Any:
        part = self.publisher.publish(self.trainer.trained, self.trainer.owned_slices())
        self.trainer.export_hugging_face(export)
        return part.model_dump(mode="json")


if __name__ == "__main__":
    answer_requests(Rank().handle)
