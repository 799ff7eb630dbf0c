#!/bin/sh
# SIMULATED, not a measurement: goodput: no difference shown: -2.4 % in 2 rounds, too few for an interval; its worst run: 8.77
# winner: the default configuration, as no other was shown to be better
# needs vllm on PATH: activate the environment that it is installed in
set -e
exec vllm serve Qwen/Qwen2.5-7B-Instruct \
  --max-model-len 4096 \
  --max-num-seqs 8 "$@"
