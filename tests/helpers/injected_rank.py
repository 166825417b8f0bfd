"""A rank of `cluster_runs.run_ranks`: given its ClusterInfo, it does what the launcher would have started."""

import json
import sys
from pathlib import Path

import determined
from cluster_runs import injected

if __name__ == "__main__":
    info, model_copy, entry, *arguments = sys.argv[1:]
    determined._info._info = injected(json.loads(Path(info).read_text(encoding="utf-8")))
    determined.constants.MANAGED_TRAINING_MODEL_COPY = model_copy
    if entry == "train":
        from model_hub_rqa import train

        sys.exit(train.main(arguments))
    from determined.exec import harness

    sys.exit(harness.main(*arguments))
