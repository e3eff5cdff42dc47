#!/bin/sh
# loop.sh FIRST STREAM COMMAND...   (in the job folder)
#
# The first sample always goes through the board's own tool. With STREAM=python3 the others go through the board's Python bindings,
# which load the model once; where there are none, or they fail, the tool is run once per sample, in a fresh folder each:
# a dump found there can only be of this inference.
i=$1 stream=$2
shift 2
rm -rf out
mkdir out || exit 71

# -6000006 (cannot open file) is seen now and then right after an upload and is worth another try; nothing else is.
infer() {
  for attempt in 1 2 3; do
    rm -rf "out/$i"
    mkdir "out/$i" && cd "out/$i" || exit 71
    "$@" "--input_file=$inputs" > console.txt 2>&1 < /dev/null
    code=$?
    cd ../.. || exit 71
    grep -q -e -6000006 "out/$i/console.txt" || break
    sleep 1
  done
  # A tool that puts an old dump into a new folder has not made it.
  test -z "$(find "out/$i" -name 'model_infer_output*' -mmin +10)" || code=stale
  echo "$code" > "out/$i/code"
  rm -f "out/$i"/model_infer_input_*
  grep "^Infer time: " "out/$i/console.txt"
  echo "done $i $code"
  test "$code" = 0 || exit 70
}

first=$i
while read -r inputs; do
  infer "$@"
  if test "$i" = "$first" && test "$stream" != none && test "$(wc -l < samples)" -gt 1; then
    "$stream" stream.py "$first" < /dev/null && exit 0
    echo "one process per sample: no usable bindings"
    rm -f out/stream.json
  fi
  i=$((i + 1))
done < samples
exit 0
