"""`harness run`: train and test a method."""

from __future__ import annotations

import os

from harness.cli.parser import report_error

HELP = """\
example:  harness run method=mskd dataset=market1501 seed=0

usage: harness run method=NAME [dataset=NAME] [KEY=VALUE …]

  harness run method=mskd dataset=synthetic              minutes on a laptop, no download
  harness run method=mskd dataset=market1501             the published setting: one GPU, hours
  harness run method=mskd +experiment=market1501_small   a small real run for CPUs
  harness run -m method=mskd,cluster_contrast seed=0,1,2 every combination (multirun)
  harness run method=mskd --cfg job                      show the configuration, run nothing
  harness run method=mskd labeler.eps=0.5                change any value
  harness run method=cluster_contrast distiller=offline_teacher distiller.teacher=RUN
  harness run method=cluster_contrast dataset=[market1501,msmt17]   train on both, test on the first
  harness run method=cluster_contrast dataset=msmt17 init=RUN       start from a finished run

often changed:  protocol=common|published|demo|debug  selection=last|label_free|oracle
  backbone=resnet50|…  backbone.weights=imagenet|FILE|none  device=cpu|cuda  data.root=DIR
  train.precision=auto|fp32|tf32|bf16|fp16  store=DIR  overwrite=skip|always|backfill
  log=none|tensorboard|wandb|mlflow  evaluation.rerank=true  evaluation.keep_features=true
  dataset.on_bad_image=skip  +search=NAME (the result of a harness search)

A finished run is not repeated. The same command resumes a run that was stopped or killed.
harness run --hydra-help shows Hydra's own options; completion: harness run -sc install=bash.
"""


def main(arguments: list[str]) -> None:
    if "-h" in arguments or "--help" in arguments:
        print(HELP, end="")
        return
    from harness.experiment import compose

    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        compose.run(arguments)
        return
    from harness.core.distributed.job import job  # imports torch

    with job(report_error):
        compose.run(arguments)
