#!/usr/bin/env bash
# All measurements of a machine with a GPU, in slices of under ten minutes, as JSON lines.
#
#   benchmarks/gpu.sh --list                   the slices, one a line: number, name, command
#   benchmarks/gpu.sh --out DIR                every slice that is not done yet, one after the other
#   benchmarks/gpu.sh --out DIR --slice 3      that slice, done or not
#
# A slice that is done leaves DIR/NAME.jsonl and is not repeated. One that fails or is stopped after SLICE_SECONDS (590)
# leaves what it has measured in DIR/NAME.part.jsonl and its words in DIR/NAME.log, and begins anew the next time; what
# jax and PyTorch have compiled by then stays in their caches. PYTHON names the interpreter (python3). jax for CUDA,
# flax, optax and PyTorch for CUDA are all that most slices need; one that needs more says so. The last line counts what
# is left. Bytes that several GPUs would exchange are counted on any machine: benchmarks.scaling.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

RUN="benchmarks.run --dtype bfloat16 --rounds 30 --sizes paper"
BIG="benchmarks.run --dtype bfloat16 --rounds 10 --sizes paper"
# name | packages beyond those above | module and options; lines go where --out is added
SLICES=(
  "small||benchmarks.run --dtype bfloat16 --rounds 30 --sizes small --forms jax"
  "pix2pix||$RUN --systems pix2pix --batches 16"
  "pix2pix-single||$RUN --systems pix2pix --batches 1 --forms jax|eager"
  "batches-pix2pix||$RUN --systems pix2pix --what train --forms jax --batches 1 2 4 8 16 32 64 128"
  "batches-cyclegan||$BIG --systems cyclegan --what train --forms jax --batches 1 2 4 8 16"
  "cyclegan-eager||$BIG --systems cyclegan --batches 8 --forms jax|eager"
  "cyclegan-compiled||$BIG --systems cyclegan --batches 8 --forms compiled"
  "focus-eager||$BIG --systems focus --batches 4 --forms jax|eager"
  "focus-compiled||$BIG --systems focus --batches 4 --forms compiled"
  "latent||$RUN --systems dcgan gan"
  "stain||$RUN --systems stain_classifier --batches 64"
  "diffusion||$BIG --systems diffusion --what train --batches 10 --forms jax|eager"
  "diffusion-compiled||$BIG --systems diffusion --what train --batches 10 --forms compiled.*bfloat16"
  "diffusion-drawing||$BIG --systems diffusion --what sample --batches 10 --forms jax|eager.*bfloat16"
  "noise-classifier||$BIG --systems noise_classifier"
  "stylegan2||$BIG --systems stylegan2 --batches 64 --forms jax"
  "stylegan2-eager||$BIG --systems stylegan2 --batches 64 --forms eager"
  "stylegan2-compiled||$BIG --systems stylegan2 --batches 64 --forms compiled"
  "stargan-v2||$BIG --systems stargan_v2 --forms jax|eager"
  "stargan-v2-compiled||$BIG --systems stargan_v2 --forms compiled"
  "float32||benchmarks.run --dtype float32 --rounds 10 --sizes paper --what train --forms jax --systems pix2pix cyclegan"
  "counterfactual||benchmarks.counterfactual --dtype bfloat16 --sizes paper --batches 4 --steps 50 100 --rounds 2 --forms jax|eager.*bfloat16"
  "counterfactual-500||benchmarks.counterfactual --dtype bfloat16 --sizes paper --batches 4 --steps 500 --rounds 1 --forms jax|eager.channels_last.bfloat16"
  "fpm|scipy|benchmarks.fpm --rounds 5"
  "first-step||benchmarks.first_step --dtype bfloat16 --sizes paper --systems pix2pix cyclegan dcgan gan stain_classifier"
  "first-step-big||benchmarks.first_step --dtype bfloat16 --sizes paper --systems diffusion stargan_v2 stylegan2"
  "input|grain|benchmarks.input_pipeline --dtype bfloat16 --sizes paper --systems pix2pix cyclegan dcgan stain_classifier --images 2048"
  "input-big|grain|benchmarks.input_pipeline --dtype bfloat16 --sizes paper --systems diffusion stylegan2 stargan_v2 --images 1024"
  "pair-in-full|grain|benchmarks.input_pipeline --dtype bfloat16 --sizes paper --systems pix2pix --batches 16 --source isl --images 570500"
)

OUT="" SLICE="" LIST=""
while [ $# -gt 0 ]; do
  case "$1" in
    --list) LIST=1; shift ;;
    --out) OUT="${2:-}"; shift 2 || shift ;;
    --slice) SLICE="${2:-}"; shift 2 || shift ;;
    *) echo "$1: unknown; there are --list, --out DIR and --slice NUMBER" >&2; exit 2 ;;
  esac
done

if [ -n "$LIST" ]; then
  for i in "${!SLICES[@]}"; do
    IFS='|' read -r name _ command <<<"${SLICES[$i]}"
    echo "$((i + 1)) $name python3 -m $command"
  done
  exit 0
fi
if [ -z "$OUT" ]; then
  echo "--out: name the folder that lines are left in, or ask for --list" >&2
  exit 2
fi
if [ -n "$SLICE" ] && ! { [[ "$SLICE" =~ ^[0-9]+$ ]] && [ "$SLICE" -ge 1 ] && [ "$SLICE" -le "${#SLICES[@]}" ]; }; then
  echo "--slice $SLICE: expected a number from 1 to ${#SLICES[@]}; --list shows them" >&2
  exit 2
fi

PYTHON="${PYTHON:-python3}"
SLICE_SECONDS="${SLICE_SECONDS:-590}"
# jax would take three quarters of the memory at once and leave PyTorch the rest.
export XLA_PYTHON_CLIENT_PREALLOCATE="${XLA_PYTHON_CLIENT_PREALLOCATE:-false}"
mkdir -p "$OUT" || exit 2

measure() {
  local number="$1" name packages command missing="" package
  IFS='|' read -r name packages command <<<"${SLICES[$((number - 1))]}"
  for package in $packages; do
    "$PYTHON" -c "import $package" 2>/dev/null || missing="$missing $package"
  done
  if [ -n "$missing" ]; then
    echo "$number $name: left out, needs$missing"
    return 1
  fi
  local part="$OUT/$name.part.jsonl" began=$SECONDS words
  rm -f "$part"
  read -ra words <<<"$command"
  if timeout "$SLICE_SECONDS" "$PYTHON" -m "${words[@]}" --out "$part" >"$OUT/$name.log" 2>&1; then
    mv "$part" "$OUT/$name.jsonl"
    echo "$number $name: done in $((SECONDS - began)) s"
  else
    echo "$number $name: stopped after $((SECONDS - began)) s; $OUT/$name.log says why"
    return 1
  fi
}

left=0
for i in "${!SLICES[@]}"; do
  number=$((i + 1)) name="${SLICES[$i]%%|*}"
  if [ -n "$SLICE" ]; then
    [ "$number" = "$SLICE" ] || continue
  elif [ -e "$OUT/$name.jsonl" ]; then
    continue
  fi
  measure "$number" || left=$((left + 1))
done
echo "$left left to measure; the table: $PYTHON -m benchmarks.papers --lines $OUT/*.jsonl"
[ "$left" = 0 ]
