#!/bin/sh
# run.sh BUILD SECONDS TARGET...: fuzzes each target for so long, from its corpus and from what was
# found before (BUILD/corpus), and fails when one has found something, with the command to repeat it.
build=$1
seconds=$2
shift 2
found=0

for target; do
	program=$build/libfuzzer/$target
	log=$build/$target.log
	words=
	[ -f "tests/fuzz/$target.dict" ] && words=-dict=tests/fuzz/$target.dict
	mkdir -p "$build/corpus/$target" "$build/findings/$target"
	"$program" -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=1024 \
		-print_final_stats=1 -artifact_prefix="$build/findings/$target/" $words \
		"$build/corpus/$target" "tests/fuzz/corpus/$target" >"$log" 2>&1
	status=$?
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
	reached=$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1)
	printf '%-16s %10s executions  %s\n' "$target" "${runs:-?}" "$reached"
	[ "$status" = 0 ] && continue
	found=1
	grep -E 'does not hold|ERROR: |runtime error' "$log" | head -n 5
	input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
	echo "$target has found something: $log"
	[ -n "$input" ] && echo "repeat it: $program $input"
done
exit $found
