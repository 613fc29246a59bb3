#!/usr/bin/env bash
# A study by script: check, sweep, compare, select the best job, require an accuracy, export. Needs jq.
set -euo pipefail
study=(-m data=digits model=linear,mlp seed=0,1 training.epochs=4 sweep.name=study)

mnist-exp check "${study[@]}" format=json | jq -e .ok > /dev/null
mnist-exp "${study[@]}" format=json > sweep.json

# Which model is better, over the seeds? `verdict` is "different", "indistinguishable", or why there is none.
mnist-exp compare run=study format=json > compare.json
jq -r '.summary, (.pairs[] | "\(.first) − \(.second): \(.difference), \(.verdict)")' compare.json

# The job with the best validation accuracy, which must reach 80 % on the validation images.
best=$(jq -r .best sweep.json)
mnist-exp evaluate run="$best" require='val/accuracy>=0.8 and test/loss<1' format=json > evaluation.json
jq -r '"\(.run): test accuracy \(.metrics.accuracy)"' evaluation.json

mnist-exp runs tag run="$best" tags=[study,best]
mnist-exp export run="$best" format=savedmodel output=exported
