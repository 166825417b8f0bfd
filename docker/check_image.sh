#!/bin/sh
# Checks an image from inside, without a network: docker run --rm --network none IMAGE sh /opt/model_hub_rqa/check_image.sh
# It prints the versions, trains a batch of the quickstart and answers a question; it ends with 1 at the first failure.
set -eu

cd /opt/model_hub_rqa
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export HF_DATASETS_CACHE="$scratch/cache"

python3 - << 'END'
from importlib.metadata import PackageNotFoundError, version

for name in ("model-hub-rqa", "determined", "torch", "transformers", "datasets", "tensorboard-plugin-profile"):
    try:
        print(f"{name} {version(name)}")
    except PackageNotFoundError:
        print(f"{name} is not installed")
END
rqa train experiment_configs/quickstart.yaml --test --output-dir "$scratch/run" > "$scratch/log" 2>&1 || {
    cat "$scratch/log"
    exit 1
}
rqa predict --checkpoint "$scratch/run" --question "Who?" --context "Anna lives in Rome." > /dev/null 2>&1
echo "trained a batch of the quickstart and answered a question: the image works"
