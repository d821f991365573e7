#!/bin/sh
# What a GPU does here: training steps, extraction, evaluation. Needs no network and no Ray.
#   sh benchmarks/gpu.sh GRAPH MODEL [OUT]
# GRAPH: a prepared graph of Gowalla (cache/graphs/<key>, by configs/gowalla-softmax.yaml); MODEL: MiniLM's directory;
# OUT: folder of cuda-step.json and cuda-extract.json, by default benchmarks/results.
set -e
cd "$(dirname "$0")/.."
out=${3:-benchmarks/results}
python benchmarks/gpu_step.py --graph "$1" --output "$out"
python benchmarks/extract.py --device cuda --model "$2" --output "$out"
python benchmarks/evaluate.py --device cuda
